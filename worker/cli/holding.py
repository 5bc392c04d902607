"""``ringonce hold`` and ``release``: legal holds, which nothing that scrubs or deletes gets past."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from worker.cli import bulk
from worker.cli.asking import ask, yes
from worker.cli.bulk import Deed, Told
from worker.cli.database import connected
from worker.cli.filters import filters
from worker.cli.parameters import OPERATION_ID, reason
from worker.cli.printing import as_json, print_json
from worker.operation import State
from worker.store import retention
from worker.store.listing import Filter

__all__ = ["hold", "release"]

Command = TypeVar("Command", bound=Callable[..., None])


def _of_operations(command: Command) -> Command:
    """What both have in common: which, why, and how it is told."""
    ids = click.argument("ids", metavar="[ID]...", type=OPERATION_ID, nargs=-1)
    return ids(filters(reason(yes(as_json(command)))))


@click.command(
    epilog="\b\nExamples:\n"
    "  ringonce hold 42 43 --reason 'case 2026-117'\n"
    "  ringonce hold --account partner --reason 'audit of 2026'\n"
    "  ringonce hold --lane spring --state failed --reason 'complaint of 24 November'\n"
    "  ringonce list --held"
)
@_of_operations
def hold(*, reason: str, ids: Sequence[int], wanted: Filter, yes: bool, as_json: bool) -> None:
    """Keep operations, an account or a lane from being scrubbed and deleted.

    An account, a lane, or both together, and nothing else, are held as a whole: what they get later, too.
    Other options that choose hold the operations that they choose now, each by itself. What is held is sent,
    recorded and settled as before, but a retry that would lose an answer is refused.
    """
    if _is_scope(ids, wanted):
        with connected(needs="the role outbox_admin") as conn:
            retention.hold_all(conn, wanted.account, wanted.lane, reason)
        _say(wanted, "under a legal hold", is_held=True, as_json=as_json)
        return

    def act(conn: bulk.Conn, operation_id: int) -> Told:
        retention.hold(conn, operation_id, reason)
        return {"id": operation_id, "held": True}

    deed = Deed("hold", act, lambda told: f"operation {told['id']} is under a legal hold", frozenset(State))
    bulk.do(deed, ids, wanted, yes=yes, as_json=as_json)


@click.command(
    epilog="\b\nExamples:\n"
    "  ringonce release 42 --reason 'case 2026-117 is closed'\n"
    "  ringonce release --account partner --reason 'the audit is over'\n"
    "  ringonce release --held --lane spring --reason 'settled' --yes"
)
@_of_operations
def release(*, reason: str, ids: Sequence[int], wanted: Filter, yes: bool, as_json: bool) -> None:
    """Lift a legal hold.

    What is old enough goes with the next pass of retention. An account, a lane, or both together, and nothing
    else, are named as they were held. Other options that choose release the operations among them that are
    held each by itself; --held chooses all of those.
    """
    if _is_scope(ids, wanted):
        if not yes:
            ask(f"release {_scope(wanted)}, of which what is old enough goes at once?")
        with connected(needs="the role outbox_admin") as conn:
            retention.release_all(conn, wanted.account, wanted.lane, reason)
        _say(wanted, "released", is_held=False, as_json=as_json)
        return

    def act(conn: bulk.Conn, operation_id: int) -> Told:
        retention.release(conn, operation_id, reason)
        return {"id": operation_id, "held": False}

    deed = Deed("release", act, lambda told: f"operation {told['id']} is released", frozenset(State))
    bulk.do(deed, ids, wanted, yes=yes, as_json=as_json)


def _is_scope(ids: Sequence[int], wanted: Filter) -> bool:
    """Whether an account, a lane or both are chosen, and nothing else."""
    return not ids and wanted != Filter() and wanted == Filter(account=wanted.account, lane=wanted.lane)


def _scope(wanted: Filter) -> str:
    account = None if wanted.account is None else f"account {wanted.account}"
    lane = None if wanted.lane is None else f"lane {wanted.lane!r}"
    return " of ".join(each for each in (lane, account) if each is not None)


def _say(wanted: Filter, what: str, *, is_held: bool, as_json: bool) -> None:
    told: dict[str, Any] = {"account": wanted.account, "lane": wanted.lane, "held": is_held}
    if as_json:
        print_json(told)
    else:
        click.echo(f"{_scope(wanted)} is {what}")
