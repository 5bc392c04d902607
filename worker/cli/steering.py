"""``ringonce cancel``, ``retry``, ``reissue``, ``resolve``, ``pause``, ``resume``: each leaves its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from worker.cli import bulk
from worker.cli.asking import yes
from worker.cli.bulk import Deed, Told
from worker.cli.database import connected
from worker.cli.filters import filters
from worker.cli.parameters import OPERATION_ID, reason
from worker.cli.printing import as_json, print_json
from worker.operation import FINAL_STATES, State
from worker.store import administration

__all__ = ["cancel", "pause", "reissue", "resolve", "resume", "retry"]

Command = TypeVar("Command", bound=Callable[..., None])

_ids = click.argument("ids", metavar="[ID]...", type=OPERATION_ID, nargs=-1)

_NOT_EXECUTED: Final = FINAL_STATES - {State.SUCCEEDED}


def _of_operations(command: Command) -> Command:
    """What commands on operations have in common: which, why, and how it is told."""
    return filters(reason(yes(as_json(command))))


def _of_account(command: Command) -> Command:
    """What commands on one account have in common."""
    return click.argument("account")(reason(as_json(command)))


@click.command(
    epilog="\b\nExamples:\n"
    "  ringonce cancel 42 --reason 'the customer called back'\n"
    "  ringonce cancel --lane newsletter --endpoint sms.send --reason 'wrong text'"
)
@_ids
@_of_operations
def cancel(*, reason: str, **choice: Any) -> None:  # noqa: ANN401 - of bulk.do
    """Take a queued operation back.

    If an attempt may have been executed it becomes unresolved, not cancelled: find out, then resolve it.
    Options that choose take back all that are queued among what they choose.
    """

    def says(told: Told) -> str:
        doubt = ": an attempt may have been executed" if told["state"] is State.UNRESOLVED else ""
        return f"operation {told['id']} is {told['state']}{doubt}"

    deed = Deed("cancel", _to_state(administration.cancel, reason), says, frozenset({State.QUEUED}))
    bulk.do(deed, **choice)


@click.command(
    epilog="\b\nExamples:\n"
    "  ringonce retry 42 --reason 'the account is paid again'\n"
    "  ringonce retry --state failed --error ACCOUNT_SUSPENDED --reason 'the account is paid again' --yes"
)
@_ids
@_of_operations
def retry(*, reason: str, **choice: Any) -> None:  # noqa: ANN401 - of bulk.do
    """Send an operation again under the same key, if that is safe.

    One that was certainly not executed may be retried at any time, one in doubt only while its key protects
    it. A deadline that has passed is lifted. Options that choose must say in which state.
    """
    deed = Deed(
        "retry",
        _to_state(administration.retry, reason),
        lambda told: f"operation {told['id']} is {told['state']}, under the same key",
        _NOT_EXECUTED | {State.QUEUED, State.UNRESOLVED},
        needs_state=True,
    )
    bulk.do(deed, **choice)


@click.command(
    epilog="\b\nExamples:\n"
    "  ringonce reissue 42 --reason 'the provider never saw the key'\n"
    "  ringonce reissue --state expired --lane reminders --reason 'late is better than never'"
)
@_ids
@_of_operations
def reissue(*, reason: str, **choice: Any) -> None:  # noqa: ANN401 - of bulk.do
    """Do an operation again under a new key, once.

    The API will execute it, whatever became of the first: find that out before. Options that choose must
    say in which state.
    """

    def act(conn: bulk.Conn, operation_id: int) -> Told:
        again = administration.reissue(conn, operation_id, reason)
        return {"id": again.id, "idempotency_key": again.idempotency_key, "reissue_of": operation_id}

    def says(told: Told) -> str:
        return (
            f"operation {told['id']} does {told['reissue_of']} again, under the key {told['idempotency_key']}"
        )

    bulk.do(Deed("reissue", act, says, _NOT_EXECUTED | {State.UNRESOLVED}, needs_state=True), **choice)


@click.command(
    epilog="\b\nExamples:\n"
    "  ringonce resolve 42 succeeded --reason 'voice_id 77 in their portal'\n"
    "  ringonce resolve failed --endpoint sms.send --created-until 2026-11-24T10:00:00Z --reason outage"
)
@_ids
@click.argument("outcome", type=click.Choice([state.value for state in State if state in FINAL_STATES]))
@_of_operations
def resolve(*, outcome: str, reason: str, **choice: Any) -> None:  # noqa: ANN401 - of bulk.do
    """Settle an unresolved operation by what you found out.

    succeeded means that the API executed it; any other outcome, that it did not. Options that choose settle
    all that are unresolved among what they choose.
    """

    def act(conn: bulk.Conn, operation_id: int) -> Told:
        state = administration.resolve(conn, operation_id, State(outcome), reason)
        return {"id": operation_id, "state": state}

    bulk.do(Deed("resolve", act, _says, frozenset({State.UNRESOLVED})), **choice)


@click.command(epilog="\b\nExample:\n  ringonce pause default --reason 'wrong caller id'")
@_of_account
def pause(*, account: str, reason: str, as_json: bool) -> None:
    """Stop claiming an account's operations, until it is resumed.

    What is in flight ends by itself.
    """
    with connected(needs="the role outbox_admin") as conn:
        administration.pause(conn, account, reason)
    _say_of_account(account, "paused", as_json=as_json)


@click.command(epilog="\b\nExample:\n  ringonce resume default --reason 'caller id put right'")
@_of_account
def resume(*, account: str, reason: str, as_json: bool) -> None:
    """Lift an account's pause, and whatever blocks workers have set on it.

    What was put off before still waits for its next attempt: `ringonce show` tells when that is.
    """
    with connected(needs="the role outbox_admin") as conn:
        administration.resume(conn, account, reason)
    _say_of_account(account, "resumed", as_json=as_json)


def _to_state(act: Callable[[bulk.Conn, int, str], State], reason: str) -> Callable[[bulk.Conn, int], Told]:
    """Does what takes a reason, and tells the state that came of it."""
    return lambda conn, operation_id: {"id": operation_id, "state": act(conn, operation_id, reason)}


def _says(told: Told) -> str:
    return f"operation {told['id']} is {told['state']}"


def _say_of_account(account: str, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"account": account, "paused": what == "paused"})
    else:
        click.echo(f"account {account} is {what}")
