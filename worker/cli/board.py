"""What ``ringonce top`` shows: one look at the outbox, and how it is set out in tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg import Connection
from psycopg.rows import TupleRow

from worker.cli.account import stopped
from worker.cli.printing import moment, span
from worker.operation import FINAL_STATES, State
from worker.plain import discreet
from worker.store import views
from worker.store.views import Account, Count, Minute, OnDuty, Waiting

__all__ = ["Look", "Section", "headline", "look", "sections"]

LANES: Final = 10
"""How many lanes of the backlog are shown: those that have waited longest."""


@dataclass(frozen=True, slots=True)
class Look:
    """The outbox at one moment, as the role ``outbox_reader`` may see it."""

    at: datetime
    """By Postgres' clock."""
    shut: str | None
    """Why nothing is claimed; None: claims are open."""
    counts: list[Count]
    backlog: list[Waiting]
    accounts: list[Account]
    workers: list[OnDuty]
    throughput: list[Minute]
    """Of the last hour."""


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the board."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def look(conn: Connection[TupleRow]) -> Look:
    """Look once."""
    history = views.history(conn)
    return Look(
        at=history.seen_at,
        shut=history.shut,
        counts=views.status(conn),
        backlog=views.backlog(conn, limit=LANES),
        accounts=discreet(views.accounts(conn)),
        workers=views.workers(conn),
        throughput=views.throughput(conn),
    )


def headline(now: Look) -> str:
    """When it is, whether claims are open, and who is on duty."""
    worker_count, slot_count = views.strength(now.workers)
    claims = "claims are open" if now.shut is None else f"CLAIMS ARE SHUT: {now.shut}"
    workers = f"{worker_count} worker{'' if worker_count == 1 else 's'}, {slot_count} slots"
    return f"{moment(now.at)}  {claims}  {workers}"


def sections(now: Look, before: Look | None = None) -> list[Section]:
    """Everything that there is to show; what became final a second since the look *before*."""
    found = [_operations(now, before), _backlog(now), _stopped(now), _minute(now), _workers(now)]
    return [section for section in found if section.rows]


def _operations(now: Look, before: Look | None) -> Section:
    stands: dict[tuple[str, str], dict[State, Count]] = defaultdict(dict)
    for each in now.counts:
        stands[each.account, each.endpoint][each.state] = each
    finished = _finished(before.counts) if before is not None else {}
    seconds = (now.at - before.at).total_seconds() if before is not None else 0.0
    rows = []
    for place, counts in sorted(stands.items()):
        ages = [each.oldest_age for each in counts.values() if each.oldest_age is not None]
        done = sum(each.count for state, each in counts.items() if state in FINAL_STATES)
        rate = (done - finished.get(place, 0)) / seconds if seconds > 0 else None
        numbers = [counts[state].count if state in counts else None for state in State]
        rows.append(
            [*place, *numbers, span(max(ages, default=None)), None if rate is None else f"{rate:,.1f}"]
        )
    states = [state.value.replace("_", " ") for state in State]
    return Section("operations", ["account", "endpoint", *states, "oldest", "final/s"], rows)


def _finished(counts: Sequence[Count]) -> dict[tuple[str, str], int]:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for each in counts:
        if each.state in FINAL_STATES:
            sums[each.account, each.endpoint] += each.count
    return sums


def _backlog(now: Look) -> Section:
    rows = [(each.account, each.lane, each.due_count, span(each.oldest_age)) for each in now.backlog]
    return Section("due and not claimed", ["account", "lane", "due", "waits for"], rows)


def _stopped(now: Look) -> Section:
    rows = [(account.name, stopped(account)) for account in now.accounts if account.stops]
    return Section("stopped", ["account", "why"], rows)


def _minute(now: Look) -> Section:
    """The newest minute that is over; while the first one runs, that one."""
    minutes = sorted({each.minute for each in now.throughput}, reverse=True)
    whole = [minute for minute in minutes if minute + timedelta(minutes=1) <= now.at]
    shown = next(iter(whole or minutes), None)
    rows = [
        (
            each.verdict,
            each.count,
            *map(span, (each.p50, each.p95, each.p99)),
        )
        for each in now.throughput
        if each.minute == shown
    ]
    return Section(
        f"attempts in the minute from {moment(shown)}", ["verdict", "count", "p50", "p95", "p99"], rows
    )


def _workers(now: Look) -> Section:
    rows = [
        (
            f"{each.node}/{each.pid}",
            each.version,
            each.slots,
            span(now.at - each.seen_at),
            "" if each.alive else "gone",
        )
        for each in now.workers
    ]
    return Section("workers", ["node", "version", "slots", "heard of", ""], rows)
