"""Migrate: a database gets the outbox of ``schema.sql``, or the steps that its own lacks, while workers run.

``psql -f`` of the same files does the same, without the lock, the retries and the version check. They lie in
the package once it is installed from a wheel, and beside the package in a checkout.

Decisions:
    2026-11-24: an advisory lock of the session, not of a transaction: schema.sql brings its own begin and
    commit, so that psql can run it as it stands. It must be a connection of its own, not a pooler's.
    2026-11-29: that lock is asked for again and again, not waited for: whoever waits in a statement holds a
    snapshot, and an index that is made concurrently waits for that, with the lock in its hands.
    2026-11-29: while a step waits for a table's lock, every claim waits behind it. It therefore waits for
    less than Postgres' ``deadlock_timeout`` (1 s), for all that it locks together, steps back for longer
    than it waited, and tries again. Once in ``FEW`` tries it waits for a little more, because only who has
    waited for 1 s makes an autovacuum let go.
    2026-11-29: two that wait for each other are told apart that way, or by Postgres after 1 s, and then it
    may be the other who has to begin anew; workers do. So that it does not come to that, a transaction
    locks before it does anything else, and ``operation`` before ``attempt``, in ``exclusive`` mode or a
    stronger one. A claim writes operations before attempts, a record attempts before operations: with a
    weaker lock of either table one of them would hold what the step wants, and want what it holds. But
    both lock rows of operations first, and who has done that is let through to whatever else it wants
    there, ahead of who waits for a lock that does not go with it.
    2026-11-29: with locks in its hands it works for ``HOLD_SECONDS`` at most, and what takes longer is not
    tried again: it would take as long again, with claims waiting for it.
    2026-11-29: a concurrent index waits for transactions, with no lock that claims need. It may wait long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from psycopg import Connection, sql
from psycopg.errors import DeadlockDetected, LockNotAvailable, QueryCanceled, UndefinedTable
from psycopg.rows import TupleRow

from worker.errors import SchemaMismatch, StoreUnavailable
from worker.store.connection import SCHEMA_VERSION
from worker.store.statements import rows, statement
from worker.store.steps import Part, Step, find_steps, read_steps
from worker.telling import span

__all__ = ["Installed", "Migration", "find_schema", "installed", "installed_version", "migrate"]

_PACKAGE: Final = files("worker")
_CHECKOUT: Final = Path(__file__).parents[2]
_LOCK: Final = 74_646_623
"""Number of the advisory lock: "ringonce" on a telephone's keys. Any would do; it must never change."""
PATIENCE_SECONDS: Final = 60
"""How long another migration, or somebody who locked what it needs, is waited for."""
INDEX_PATIENCE_SECONDS: Final = 1800
"""How long a concurrent index waits for transactions that were open before it; nobody waits for it."""
SHORT_SECONDS: Final = 0.4
"""How long a step waits for its locks, all together: less than the ``deadlock_timeout``."""
LONG_SECONDS: Final = 1.5
"""How long it does so now and then: more than that."""
FEW: Final = 4
"""The last of so many tries is a long one."""
HOLD_SECONDS: Final = 2.0
"""How long a transaction may work, with whatever it has locked in its hands; some 30 ms are usual."""
_PAUSE_SECONDS: Final = 0.2
_UNTROUBLED: Final = """
    select set_config(name, '0', false) from pg_settings
     where name in ('statement_timeout', 'transaction_timeout', 'idle_session_timeout')
"""
"""What a role, a database or a managed service may have set against sessions that take long, as this does.
``sessions.limit`` would set none of it behind a pooler, not even behind one that lends a session for good."""


class Installed(NamedTuple):
    """The outbox that a database has."""

    version: int
    compatible_from: int
    """The oldest version whose workers work with it."""


@dataclass(frozen=True, slots=True)
class Migration:
    """What a migration did, or would do."""

    before: int | None
    """The version that was found; None: there was no outbox."""
    after: int
    """The version that is there now, or would be."""
    steps: tuple[Step, ...] = ()
    """From one to the other; empty also if the whole schema was new."""
    breaking: tuple[Step, ...] = ()
    """Those of them that break workers with which the version before still works."""

    @property
    def is_needed(self) -> bool:
        """Whether there is, or was, anything to do."""
        return self.before != self.after


def migrate(
    conn: Connection[TupleRow],
    *,
    dry_run: bool = False,
    steps: Sequence[Step] | None = None,
    old_workers_are_gone: bool = False,
    tell: Callable[[Step], object] = str,
) -> Migration:
    """Bring the database that *conn* leads to, in autocommit, to this version of the outbox.

    An empty database gets the whole schema, an older outbox the *steps* above its version (by default those
    of this installation), and of each *tell* is told before it is begun. One migration at a time: a second
    one waits for the first and then finds nothing to do. What was interrupted goes on where it was. A dry
    run writes nothing and waits for nobody. After an error *conn* is of no more use.

    Raises:
        SchemaMismatch: the database has a newer version or an ``outbox`` that is somebody else's; or workers
            live that may be too old for a step, and nobody says that *old_workers_are_gone*. Nothing was
            changed.
        StoreUnavailable: another migration did not end, somebody did not let go of what a step has to lock,
            a step took too long with locks in its hands, or somebody cancelled it; the steps before that
            one are done.
        psycopg.Error: Postgres refused the schema or a step, of whose last transaction nothing is left; the
            steps before are done.
    """
    if steps is None:
        steps = read_steps(find_steps())
    if dry_run:
        return _plan(conn, steps)
    with _alone(conn):
        plan = _plan(conn, steps)
        if plan.is_needed and not old_workers_are_gone:
            _refuse_to_break_workers(conn, plan)
        if plan.before is None:
            conn.execute(find_schema().read_bytes())
        for step in plan.steps:
            tell(step)
            for part in step.parts:
                (_run if part.in_transaction else _run_outside)(conn, step, part)
        return plan


def installed(conn: Connection[TupleRow]) -> Installed | None:
    """The outbox in the database; None if there is none.

    Raises:
        SchemaMismatch: there is a schema called ``outbox``, and it is somebody else's.
    """
    try:
        row = conn.execute(statement("schema_version")).fetchone()
    except UndefinedTable:
        row = None
    if row is not None:
        return Installed(*row)
    if conn.execute("select from pg_namespace where nspname = 'outbox'").fetchone() is not None:
        raise SchemaMismatch("the database has a schema outbox that says no version: use another database")
    return None


def installed_version(conn: Connection[TupleRow]) -> int | None:
    """The version of the outbox in the database; None if there is none. Raises as ``installed`` does."""
    found = installed(conn)
    return found.version if found else None


def find_schema(package: Traversable = _PACKAGE, checkout: Path = _CHECKOUT) -> Traversable:
    """The file ``schema.sql``: the package's own, else the one of the checkout around it.

    Raises:
        SchemaMismatch: this installation has lost it.
    """
    for folder in (package, checkout):
        if (file := folder / "schema.sql").is_file():
            return file
    raise SchemaMismatch("this installation has no schema.sql: install ringonce anew")


def _plan(conn: Connection[TupleRow], steps: Sequence[Step]) -> Migration:
    there = installed(conn)
    found = there.version if there else None
    target = max([SCHEMA_VERSION, *(each.number for each in steps)])
    missing = tuple(each for each in steps if each.number > (SCHEMA_VERSION if found is None else found))
    if found is not None and found > target:
        raise SchemaMismatch(
            f"the database has outbox schema {found}, newer than {target}, which this ringonce "
            "brings: use the newer ringonce"
        )
    if found is not None and found < target and target not in {each.number for each in missing}:
        raise SchemaMismatch(
            f"the database has outbox schema {found}, and this ringonce knows no way from there to {target}"
        )
    breaking = tuple(each for each in missing if there and each.workers_from > there.compatible_from)
    return Migration(found, target, missing, breaking)


def _refuse_to_break_workers(conn: Connection[TupleRow], plan: Migration) -> None:
    """Workers may live that are as old as the outbox works with: what they need must not be taken away."""
    if not plan.breaking:
        return
    first = plan.breaking[0]
    alive = "select count(*) from outbox.worker where lease_expires_at > clock_timestamp()"
    [living] = conn.execute(alive).fetchone() or (0,)
    if living:
        raise SchemaMismatch(
            f"migration {first} works only with workers from schema {first.workers_from} on, and "
            f"{living} live that may be older (look into outbox.worker): stop those, "
            "then migrate with --old-workers-are-gone"
        )


def _run(conn: Connection[TupleRow], step: Step, part: Part) -> None:
    """Run one transaction of *step*, as often as it takes to get its locks."""
    _set(conn, statement_timeout=0, idle_in_transaction_session_timeout=HOLD_SECONDS)
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    for number in count(1):
        waited = SHORT_SECONDS if number % FEW else LONG_SECONDS
        _set(conn, lock_timeout=waited)
        try:
            with _within(conn, waited):
                conn.execute(part.locking.encode())
            _work(conn, step, part)
            return
        except QueryCanceled as error:
            raise StoreUnavailable(
                f"migration {step}: somebody cancelled it; nothing is left of it, "
                "and the steps before are done"
            ) from error
        except (TimeoutError, LockNotAvailable, DeadlockDetected) as error:
            conn.rollback()
            if time.monotonic() > give_up_at:
                raise _held_up(conn, step, PATIENCE_SECONDS) from error
        time.sleep(2 * waited)  # in which claims that queued behind it go on


def _work(conn: Connection[TupleRow], step: Step, part: Part) -> None:
    """Do what *part* is for, once it has its locks. A view, say, that it replaces may still be in use."""
    _set(conn, lock_timeout=SHORT_SECONDS)
    try:
        with _within(conn, SHORT_SECONDS + HOLD_SECONDS):
            conn.execute(part.sql.removeprefix(part.locking).encode())
    except TimeoutError as error:
        raise StoreUnavailable(
            f"migration {step} took longer than {span(HOLD_SECONDS)} with locks that workers wait for; "
            "nothing is left of it, and the steps before are done: run it again when Postgres has less to do"
        ) from error


@contextmanager
def _within(conn: Connection[TupleRow], seconds: float) -> Iterator[None]:
    """Cut what the block has Postgres do after so many *seconds*, of however many statements and locks it is.

    Raises:
        TimeoutError: it was cut.
    """
    is_cut = threading.Event()

    def cut() -> None:
        is_cut.set()
        conn.cancel_safe()

    timer = threading.Timer(seconds, cut)
    timer.start()
    try:
        yield
    except QueryCanceled as error:
        if is_cut.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        timer.join()  # so that it cuts nothing that comes later; Postgres ignores it between statements


def _run_outside(conn: Connection[TupleRow], step: Step, part: Part) -> None:
    """Run one statement of *step* that cannot be in a transaction; what it left unfinished goes first."""
    _set(conn, statement_timeout=0, lock_timeout=INDEX_PATIENCE_SECONDS)
    try:
        if part.index and rows(conn, "invalid_index", name=part.index):
            unfinished = sql.Identifier("outbox", part.index)
            conn.execute(sql.SQL("drop index concurrently if exists {}").format(unfinished))
        conn.execute(part.sql.encode())
    except LockNotAvailable as error:
        raise _held_up(conn, step, INDEX_PATIENCE_SECONDS) from error


def _held_up(conn: Connection[TupleRow], step: Step, patience: float) -> StoreUnavailable:
    seen = "".join(
        f". Process {each['pid']} of Postgres ({each['who']}, {each['state']}) has held locks for longest"
        for each in rows(conn, "migration_holders")
    )
    return StoreUnavailable(
        f"migration {step} did not get what it has to lock ({step.locks}) within {span(patience)}: "
        f"run it again, and it goes on where it was{seen}"
    )


def _set(conn: Connection[TupleRow], **seconds: float) -> None:
    for name, value in seconds.items():
        conn.execute("select set_config(%s, %s, false)", [name, f"{round(value * 1000)}ms"])


@contextmanager
def _alone(conn: Connection[TupleRow]) -> Iterator[None]:
    """Hold the lock of migrations. If the block fails the caller's connection goes, and the lock with it."""
    conn.execute(_UNTROUBLED)
    _set(conn, lock_timeout=PATIENCE_SECONDS)
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while conn.execute("select pg_try_advisory_lock(%s)", [_LOCK]).fetchone() != (True,):
        if time.monotonic() > give_up_at:
            raise StoreUnavailable(
                f"another migration has been running for {PATIENCE_SECONDS} s: nothing was changed"
            )
        time.sleep(_PAUSE_SECONDS)
    yield
    conn.execute("select pg_advisory_unlock(%s)", [_LOCK])
