"""The lists of operations, the search, one operation and its story, and what waits for a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from worker.dashboard import deeds, words
from worker.dashboard.visits import Visit
from worker.observe import Event, emit
from worker.operation import State
from worker.store import dossiers, listing, views
from worker.store.dossiers import ActionOnRecord, AttemptOnRecord, Contents, Dossier
from worker.store.listing import Filter, Page

__all__ = ["find", "operation", "operations", "reveal", "unresolved"]

LOOK: Final = 10_000
"""Operations that one page looks at: 20 ms, if they are in memory."""
UNRESOLVED_COUNT: Final = 20
"""Operations that wait for a person, on one page: each brings its evidence."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of an operation's story."""

    at: datetime
    attempt: AttemptOnRecord | None = None
    action: ActionOnRecord | None = None
    word: str | None = None
    """What else it was."""


def operations(visit: Visit) -> Response:
    """A page of operations, the newest first."""
    wanted = _wanted(visit)
    after = visit.number("after", 0) or None
    return visit.page(
        "operations.html",
        every=5 if after is None else None,
        page=listing.page(visit.conn, wanted, after=after, look=LOOK),
        wanted=wanted,
        is_newest=after is None,
        chosen=_chosen(wanted),
        accounts=[account.name for account in views.accounts(visit.conn)],
        endpoints=[endpoint.name for endpoint in views.endpoints(visit.conn)],
        states=list(State),
    )


def find(visit: Visit) -> Response:
    """What somebody looks for: by its number, its key, its id at the provider, or a phone number it calls."""
    text = visit.form.get("text", "").replace("\0", "").strip()[:255]
    found = listing.named(visit.conn, text) if text else []
    digits = words.digits_of(text)
    if len(found) == 1 and not visit.form.keys() & {"after", "day"}:
        return RedirectResponse(f"/operations/{found[0].id}", 303)
    page: Page | None = None
    day = _day(visit.form.get("day", ""))
    if digits and visit.person.is_admin:
        after = _number(visit.form.get("after", "")) or None
        until = None if day is None else datetime.combine(day + timedelta(days=1), time(tzinfo=UTC))
        page = listing.saying(visit.conn, digits, until=until, after=after, look=LOOK)
    return visit.page("found.html", every=None, text=text, found=found, digits=digits, page=page, day=day)


def operation(visit: Visit) -> Response:
    """One operation with all that happened to it."""
    return _operation(visit, None)


def reveal(visit: Visit) -> Response:
    """The same, and what it says and what was answered; leaves an event."""
    id_ = visit.operation_id
    contents = dossiers.contents(visit.conn, id_)
    emit(Event.REVEALED, operation=id_, by=visit.person.name)
    return _operation(visit, contents)


def unresolved(visit: Visit) -> Response:
    """What may have been executed and waits for a person, with its evidence."""
    after = visit.number("after", 0)
    found = views.unresolved(visit.conn, after=after, limit=UNRESOLVED_COUNT + 1)
    shown = found[:UNRESOLVED_COUNT]
    return visit.page(
        "unresolved.html",
        shown=shown,
        now=views.history(visit.conn).seen_at,
        more=shown[-1].id if len(found) > UNRESOLVED_COUNT else None,
        is_first=after == 0,
    )


def _operation(visit: Visit, contents: Contents | None) -> Response:
    dossier = dossiers.dossier(visit.conn, visit.operation_id)
    return visit.page(
        "operation.html",
        every=None if contents else 5,
        dossier=dossier,
        operation=dossier.operation,
        story=_story(dossier),
        deeds=deeds.open_to(dossier) if visit.person.is_admin else [],
        contents=contents,
        did=deeds.said(visit.query("did")),
    )


def _story(dossier: Dossier) -> list[Happening]:
    """What happened, in its order."""
    operation = dossier.operation
    happened = [Happening(operation.created_at, word=f"enqueued by {operation.enqueued_by}")]
    happened += [Happening(each.started_at, attempt=each) for each in dossier.attempts]
    happened += [Happening(each.acted_at, action=each) for each in dossier.actions]
    if operation.finished_at is not None:
        happened.append(Happening(operation.finished_at, word=operation.state.value))
    return sorted(happened, key=lambda each: each.at)


def _wanted(visit: Visit) -> Filter:
    state = visit.query("state")
    return Filter(
        states=(State(state),) if state in set(State) else (),
        account=visit.query("account"),
        endpoint=visit.query("endpoint"),
    )


def _chosen(wanted: Filter) -> str:
    """What is wanted as the rest of an address."""
    chosen = {"state": "".join(wanted.states), "account": wanted.account, "endpoint": wanted.endpoint}
    return urlencode({name: value for name, value in chosen.items() if value})


def _day(text: str) -> date | None:
    """The day that a form names, if it is one that anything can have been enqueued on."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if day < date.max else None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None
