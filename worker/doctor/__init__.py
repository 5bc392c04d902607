"""The doctor: looks for what is wrong, or will be, and says what to do.

    examination.py     every check in turn, each on its own
    patient.py         the database that is examined, and what several checks ask of it
    server.py          Postgres itself: durability, vacuum, old snapshots, its clock
    outbox.py          what stands in it: versions, roles, claims, workers, what waits for a person
    surroundings.py    the brokers, the APP KEYs, and the way to each API
    finding.py         what was found, how bad it is, and what to do about it

It writes nothing and sends no request to any API. Whatever it waits for, it waits for some seconds: what
could not be looked at is a warning that says so.
"""

from __future__ import annotations

from worker.doctor.examination import examine
from worker.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
