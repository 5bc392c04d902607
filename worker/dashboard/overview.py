"""The whole on one page: states, backlog, accounts, fleet; and beside it the plots of the last hour."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from worker.dashboard import deeds, plotting
from worker.dashboard.visits import Visit
from worker.operation import State
from worker.store import views
from worker.store.views import Account, Count

__all__ = ["overview", "throughput"]


SHOWN: Final = 6
"""Lines of what is shown in part: the first ones matter most."""
LANES: Final = 1_000
"""Lanes whose work is counted together; beyond them the backlog is "at least"."""


@dataclass(frozen=True, slots=True)
class AccountSeen:
    """An account with what it has to do."""

    account: Account
    in_flight_count: int
    queued_count: int


def overview(visit: Visit) -> Response:
    """How everything stands now."""
    conn = visit.conn
    counts = views.status(conn)
    return visit.page(
        "overview.html",
        history=views.history(conn),
        conflicts=views.conflicts(conn, limit=SHOWN),
        states=_by_state(counts),
        backlog=views.backlog(conn, limit=LANES),
        shown=SHOWN,
        accounts=_accounts(views.accounts(conn), counts),
        workers=views.workers(conn),
        expiring=views.keys_expiring(conn, limit=SHOWN),
        did=deeds.said(visit.query("did")),
    )


def throughput(visit: Visit) -> Response:
    """The plots of the last hour: a page, and the part of the overview that is fetched for itself."""
    minutes, now = views.throughput(visit.conn), views.history(visit.conn).seen_at
    return visit.page(
        "plots.html" if visit.is_fragment else "throughput.html",
        every=None,
        volume=plotting.volume(minutes, now),
        latency=plotting.latency(minutes, now),
        plotting=plotting,
    )


def _by_state(counts: list[Count]) -> list[tuple[State, int]]:
    totals: Counter[State] = Counter()
    for each in counts:
        totals[each.state] += each.count
    return [(state, totals[state]) for state in State]


def _accounts(accounts: list[Account], counts: list[Count]) -> list[AccountSeen]:
    waiting: Counter[tuple[str, State]] = Counter()
    for each in counts:
        waiting[each.account, each.state] += each.count
    return [
        AccountSeen(account, waiting[account.name, State.IN_FLIGHT], waiting[account.name, State.QUEUED])
        for account in accounts
    ]
