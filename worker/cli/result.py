"""``ringonce result``: what became of an operation, for whoever enqueued it."""

from __future__ import annotations

from typing import Any, Final

import click

from worker import results
from worker.cli.database import connected
from worker.cli.dossier import print_contents
from worker.cli.printing import as_json, moment, print_facts, print_json
from worker.plain import discreet
from worker.results import Result
from worker.store.dossiers import Contents

__all__ = ["result"]

EXAMPLES: Final = """\b
Examples:
  ringonce result 42
  ringonce result 0b9c8d3e-7f64-4d0e-9a52-3c1f0de7a111 --account try --json
  ringonce result 42 --reveal

It takes the role outbox_producer, and tells of no operation of another user's: `ringonce show` does. A
number is an ID, anything else a key.
"""


@click.command(epilog=EXAMPLES)
@click.argument("id_or_key", metavar="ID|KEY")
@click.option("--account", default="default", show_default=True, help="Whose key it is; an ID needs none.")
@click.option("--reveal", is_flag=True, help="Show the answer too, and phone numbers in an error.")
@as_json
def result(*, id_or_key: str, account: str, reveal: bool, as_json: bool) -> None:
    """Show what became of an operation that you enqueued.

    Where it stands, the API's id of it, and the status of the answer that decided it.
    """
    with connected(needs="the role outbox_producer") as conn:
        found = results.result(conn, _named(id_or_key), account=account)
    found = found if reveal else discreet(found)
    contents = _contents(found)
    if as_json:
        revealed = {"response_headers": contents.response_headers, "response_body": contents.response_body}
        print_json(_columns(found) | (revealed if reveal else {}))
        return
    click.echo(f"operation {found.id} is {found.state}")
    print_facts(_facts(found))
    if reveal:
        print_contents(contents)


def _named(id_or_key: str) -> int | str:
    is_id = id_or_key.isascii() and id_or_key.isdecimal() and len(id_or_key) < 20
    return int(id_or_key) if is_id else id_or_key


def _columns(found: Result) -> dict[str, Any]:
    """The columns of ``outbox.result``, short of what was answered."""
    answer = found.answer
    return {
        "id": found.id,
        "idempotency_key": found.idempotency_key,
        "account": found.account,
        "endpoint": found.endpoint,
        "state": found.state,
        "provider_id": found.provider_id,
        "response_status": None if answer is None else answer.status,
        "last_error": found.last_error,
        "created_at": found.created_at,
        "finished_at": found.finished_at,
    }


def _facts(found: Result) -> list[tuple[str, object]]:
    answer = found.answer
    return [
        ("endpoint", found.endpoint),
        ("account", found.account),
        ("key", found.idempotency_key),
        ("enqueued", moment(found.created_at)),
        ("finished", moment(found.finished_at)),
        ("provider id", found.provider_id),
        ("answer", None if answer is None else f"{answer.status}, {len(answer.body):,} bytes"),
        ("last error", found.last_error),
    ]


def _contents(found: Result) -> Contents:
    """What was answered; a producer knows what it sent."""
    answer = found.answer
    if answer is None:
        return Contents(None, None, None, {})
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
    return Contents(None, headers, answer.body, {})
