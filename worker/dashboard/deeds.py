"""What administrators do. Each deed has a page that tells what it means and asks why; the answer does it.

Whether a deed is possible is decided in Postgres alone (``store.administration``); which ones are offered is
a guess at that, so that nobody has to try.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from psycopg import Connection
from psycopg.rows import TupleRow
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from worker.dashboard.visits import Visit
from worker.errors import ClaimsShut, StateConflict, UnknownAccount
from worker.operation import State
from worker.store import administration, dossiers, views
from worker.store.dossiers import Dossier

__all__ = [
    "OF_ACCOUNTS",
    "OF_OPERATIONS",
    "Deed",
    "ask_of_account",
    "ask_of_operation",
    "do_to_account",
    "do_to_operation",
    "open_to",
    "said",
]

REASON_LIMIT: Final = 4_000
"""Bytes that the audit takes."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that an administrator can do to an operation or to an account."""

    name: str
    """In addresses."""
    title: str
    effect: str
    """What it means, before it is done."""
    done: str
    """What is said when it is done."""
    grave: bool = False
    """It may ring a phone twice, or takes something away."""


OF_OPERATIONS: Final[Mapping[str, Deed]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Deed(
                "executed",
                "It was executed",
                "You found out that the API did execute it. It becomes succeeded, and nothing more is sent.",
                "Settled: it was executed.",
            ),
            Deed(
                "not-executed",
                "It was not executed",
                "You found out that the API did not execute it. It becomes failed: nothing more is sent.",
                "Settled: it was not executed.",
            ),
            Deed(
                "retry",
                "Retry under the same key",
                "It is sent again at once, under the same key: if an earlier attempt was executed, the API "
                "repeats its first answer and executes nothing. A deadline that has passed is lifted.",
                "It will be sent again, under the same key.",
            ),
            Deed(
                "cancel",
                "Cancel",
                "It is not sent any more. If an attempt may have been executed it becomes unresolved, not "
                "cancelled.",
                "Taken back.",
                grave=True,
            ),
            Deed(
                "reissue",
                "Reissue under a new key",
                "A new operation does it again, under a new key. The API will execute it whatever became of "
                "this one: if this one was executed, the phone rings twice.",
                "This operation does the other one again, under a new key.",
                grave=True,
            ),
        )
    }
)
OF_ACCOUNTS: Final[Mapping[str, Deed]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Deed(
                "pause",
                "Pause",
                "Nothing of it is claimed until somebody resumes it. What is in flight ends by itself.",
                "Paused: nothing of it is claimed.",
                grave=True,
            ),
            Deed(
                "resume",
                "Resume",
                "Lifts the pause, and whatever blocks workers have set on it. What was put off still waits "
                "for its next attempt.",
                "Resumed.",
            ),
        )
    }
)

_DO_TO_OPERATION: Final[Mapping[str, Callable[[Connection[TupleRow], int, str], object]]] = MappingProxyType(
    {
        "executed": lambda conn, id_, why: administration.resolve(conn, id_, State.SUCCEEDED, why),
        "not-executed": lambda conn, id_, why: administration.resolve(conn, id_, State.FAILED, why),
        "retry": administration.retry,
        "cancel": administration.cancel,
        "reissue": administration.reissue,
    }
)
_DO_TO_ACCOUNT: Final[Mapping[str, Callable[[Connection[TupleRow], str, str], None]]] = MappingProxyType(
    {"pause": administration.pause, "resume": administration.resume}
)


def open_to(dossier: Dossier) -> list[Deed]:
    """What can be done to an operation as it stands."""
    operation = dossier.operation
    has_key = operation.window_left is None or operation.window_left > timedelta(0)
    again = (["retry"] if has_key else []) + (["reissue"] if operation.reissued_as is None else [])
    match operation.state:
        case State.QUEUED:
            names = (["retry"] if dossier.attempts else []) + ["cancel"]
        case State.UNRESOLVED:
            names = ["executed", "not-executed", *again]
        case State.FAILED | State.EXPIRED | State.CANCELLED:
            names = again
        case _:
            names = []
    return [OF_OPERATIONS[name] for name in names]


def said(name: str | None) -> str | None:
    """What a page says about a deed that was just done."""
    deed = OF_OPERATIONS.get(name or "") or OF_ACCOUNTS.get(name or "")
    return deed.done if deed else None


def ask_of_operation(visit: Visit) -> Response:
    """Tell what a deed would mean for an operation, and ask why."""
    return _ask_of_operation(visit, None)


def do_to_operation(visit: Visit) -> Response:
    """Do it, and show the operation; or say why not, with what was filled in."""
    deed = _deed(visit, OF_OPERATIONS)
    id_ = visit.operation_id
    try:
        result = _DO_TO_OPERATION[deed.name](visit.conn, id_, _reason(visit))
    except (StateConflict, ClaimsShut) as refusal:
        return _ask_of_operation(visit, str(refusal))
    shown = result.id if isinstance(result, administration.Reissue) else id_
    return RedirectResponse(f"/operations/{shown}?did={deed.name}", 303)


def ask_of_account(visit: Visit) -> Response:
    """Tell what a deed would mean for an account, and ask why."""
    return _ask_of_account(visit, None)


def do_to_account(visit: Visit) -> Response:
    """Do it, and show the overview; or say why not, with what was filled in."""
    deed = _deed(visit, OF_ACCOUNTS)
    try:
        _DO_TO_ACCOUNT[deed.name](visit.conn, visit.request.path_params["name"], _reason(visit))
    except StateConflict as refusal:
        return _ask_of_account(visit, str(refusal))
    return RedirectResponse(f"/?did={deed.name}", 303)


def _ask_of_operation(visit: Visit, refusal: str | None) -> Response:
    dossier = dossiers.dossier(visit.conn, visit.operation_id)
    return _ask(
        visit,
        _deed(visit, OF_OPERATIONS),
        refusal,
        subject=f"operation {dossier.operation.id}",
        back=f"/operations/{dossier.operation.id}",
        operation=dossier.operation,
    )


def _ask_of_account(visit: Visit, refusal: str | None) -> Response:
    name: str = visit.request.path_params["name"]
    if not views.accounts(visit.conn, name):
        raise UnknownAccount(f"there is no account {name!r}")
    return _ask(
        visit,
        _deed(visit, OF_ACCOUNTS),
        refusal,
        subject=f"account {name}",
        back="/",
        operation=None,
    )


def _ask(visit: Visit, deed: Deed, refusal: str | None, **values: object) -> Response:
    return visit.page(
        "deed.html",
        every=None,
        status=200 if refusal is None else 409,
        deed=deed,
        refusal=refusal,
        reason=visit.form.get("reason", ""),
        **values,
    )


def _deed(visit: Visit, deeds: Mapping[str, Deed]) -> Deed:
    deed = deeds.get(visit.request.path_params["deed"])
    if deed is None:
        raise HTTPException(404, "there is no such action")
    return deed


def _reason(visit: Visit) -> str:
    """Why, in the words of whoever does it.

    Raises:
        StateConflict: the audit cannot hold them.
    """
    reason = visit.form.get("reason", "").replace("\0", "").strip()
    if not reason:
        raise StateConflict("say why: whoever reads the audit will want to know")
    if len(reason.encode()) > REASON_LIMIT:
        raise StateConflict(f"a reason has at most {REASON_LIMIT:,} bytes")
    return reason
