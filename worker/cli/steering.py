"""``ringonce cancel``, ``retry``, ``reissue``, ``resolve``, ``pause``, ``resume``: each leaves its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from worker.cli.database import connected
from worker.cli.parameters import OPERATION_ID, reason
from worker.cli.printing import as_json, print_json
from worker.operation import FINAL_STATES, State
from worker.store import administration

__all__ = ["cancel", "pause", "reissue", "resolve", "resume", "retry"]

Command = TypeVar("Command", bound=Callable[..., None])

_id = click.argument("operation_id", metavar="ID", type=OPERATION_ID)


def _of_operation(command: Command) -> Command:
    """What commands on one operation have in common."""
    return _id(reason(as_json(command)))


def _of_account(command: Command) -> Command:
    """What commands on one account have in common."""
    return click.argument("account")(reason(as_json(command)))


@click.command(epilog="\b\nExample:\n  ringonce cancel 42 --reason 'the customer called back'")
@_of_operation
def cancel(*, operation_id: int, reason: str, as_json: bool) -> None:
    """Take a queued operation back.

    If an attempt may have been executed it becomes unresolved, not cancelled: find out, then resolve it.
    """
    with connected(needs="the role outbox_admin") as conn:
        state = administration.cancel(conn, operation_id, reason)
    doubt = ": an attempt may have been executed" if state is State.UNRESOLVED else ""
    _say(operation_id, state, doubt, as_json=as_json)


@click.command(epilog="\b\nExample:\n  ringonce retry 42 --reason 'the account is paid again'")
@_of_operation
def retry(*, operation_id: int, reason: str, as_json: bool) -> None:
    """Send an operation again under the same key, if that is safe.

    One that was certainly not executed may be retried at any time, one in doubt only while its key protects
    it. A deadline that has passed is lifted.
    """
    with connected(needs="the role outbox_admin") as conn:
        state = administration.retry(conn, operation_id, reason)
    _say(operation_id, state, ", under the same key", as_json=as_json)


@click.command(epilog="\b\nExample:\n  ringonce reissue 42 --reason 'the provider never saw the key'")
@_of_operation
def reissue(*, operation_id: int, reason: str, as_json: bool) -> None:
    """Do an operation again under a new key, once.

    The API will execute it, whatever became of the first: find that out before.
    """
    with connected(needs="the role outbox_admin") as conn:
        again = administration.reissue(conn, operation_id, reason)
    if as_json:
        print_json({"id": again.id, "idempotency_key": again.idempotency_key, "reissue_of": operation_id})
    else:
        click.echo(f"operation {again.id} does {operation_id} again, under the key {again.idempotency_key}")


@click.command(epilog="\b\nExample:\n  ringonce resolve 42 succeeded --reason 'voice_id 77 in their portal'")
@_id
@click.argument("outcome", type=click.Choice([state.value for state in State if state in FINAL_STATES]))
@reason
@as_json
def resolve(*, operation_id: int, outcome: str, reason: str, as_json: bool) -> None:
    """Settle an unresolved operation by what you found out.

    succeeded means that the API executed it; any other outcome, that it did not.
    """
    with connected(needs="the role outbox_admin") as conn:
        state = administration.resolve(conn, operation_id, State(outcome), reason)
    _say(operation_id, state, as_json=as_json)


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


def _say(operation_id: int, state: State, more: str = "", *, as_json: bool) -> None:
    if as_json:
        print_json({"id": operation_id, "state": state})
    else:
        click.echo(f"operation {operation_id} is {state}{more}")


def _say_of_account(account: str, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"account": account, "paused": what == "paused"})
    else:
        click.echo(f"account {account} is {what}")
