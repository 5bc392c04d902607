"""``ringonce enqueue``: one operation, or one for each line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

import click

from worker import producer
from worker.cli.database import connected
from worker.cli.parameters import zoned_time
from worker.cli.printing import as_json, print_json
from worker.errors import InvalidKey, InvalidPayload
from worker.producer import Enqueued, NewOperation

__all__ = ["enqueue"]

BATCH: Final = 1_000
"""Rows of one statement; all of them are one transaction."""

EXAMPLES: Final = """\b
Examples:
  ringonce enqueue voice.call '{"from": "+6512345678", "to": ["+919876543210"]}'
  ringonce enqueue sms.send @message.json --lane newsletter --priority 3
  make-message | ringonce enqueue sms.send - --key 0b9c8d3e-7f64-4d0e-9a52-3c1f0de7a111
  ringonce enqueue voice.call @call.json --deadline 2026-11-24T18:30:00+01:00
  ringonce enqueue sms.send @all.ndjson --lines --key 1b671a64-40d5-491e-99b0-da01ff1f3341 --lane spring
"""


@click.command(epilog=EXAMPLES)
@click.argument("endpoint")
@click.argument("payload", metavar="PAYLOAD|@FILE|-")
@click.option("--lines", is_flag=True, help="Each line is a payload; all are written, or none.")
@click.option("--account", default="default", show_default=True, help="Which account does it.")
@click.option("--key", "idempotency_key", metavar="TEXT", help="Idempotency key; a UUID v4 is made if none.")
@click.option("--lane", default="", metavar="TEXT", help="Work in one lane cannot starve another.")
@click.option(
    "--priority", type=click.IntRange(0, 3), default=1, show_default=True, help="0 is the most urgent."
)
@click.option("--not-before", type=zoned_time, metavar="TIME", help="No attempt starts earlier.")
@click.option(
    "--deadline", type=zoned_time, metavar="TIME", help="No later attempt; else the endpoint's default."
)
@click.option("--on-done", metavar="TASK", help="Name of a task of yours, kept with it.")
@click.option("--traceparent", metavar="TEXT", help="W3C trace context, sent on with the call.")
@as_json
def enqueue(*, endpoint: str, payload: str, lines: bool, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - click's
    """Write one operation into the outbox, or one for each line.

    PAYLOAD is a JSON object, which is sent to the letter; @FILE reads it from a file and - from standard
    input, less the line end at its end. The same key with the same request returns the first operation;
    with another request it is refused.

    With --lines the key is a UUID, from which each line's own is made (v5, of its number): the same lines may
    be enqueued again. Without one, each time is another operation.
    """
    text = _read(payload)
    if lines:
        _tell_many(_enqueue_lines(endpoint, text, **options), as_json=as_json)
        return
    _check(text)
    with connected(needs="the role outbox_producer") as conn:
        done = producer.enqueue(conn, endpoint, text, **options)
    if as_json:
        print_json(asdict(done))
    elif done.created:
        click.echo(f"operation {done.id} created, key {done.idempotency_key}")
    else:
        click.echo(f"operation {done.id} was there already and is {done.state}, key {done.idempotency_key}")


def _read(payload: str) -> str:
    """The text that *payload* leads to.

    Raises:
        InvalidPayload: it cannot be read.
    """
    source = "standard input" if payload == "-" else payload.removeprefix("@")
    try:
        if payload == "-":
            raw = sys.stdin.buffer.read()
        elif payload.startswith("@"):
            raw = Path(source).read_bytes()
        else:
            return payload
        return raw.decode().rstrip("\r\n")
    except OSError as error:
        raise InvalidPayload(f"{source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidPayload(f"{source} is not text in UTF-8") from error


def _enqueue_lines(endpoint: str, text: str, **options: Any) -> list[Enqueued]:  # noqa: ANN401 - click's
    """Write an operation for each line of *text*, in one transaction.

    Raises:
        InvalidPayload: a line is not JSON, or there is none.
        InvalidKey: the key is no UUID.
    """
    batch = list(_operations(endpoint, text, **options))
    if not batch:
        raise InvalidPayload("there is no line, so there is nothing to enqueue")
    with connected(needs="the role outbox_producer") as conn, conn.transaction():
        return [
            each
            for start in range(0, len(batch), BATCH)
            for each in producer.enqueue_many(conn, batch[start : start + BATCH])
        ]


def _operations(
    endpoint: str,
    text: str,
    *,
    idempotency_key: str | None,
    **options: Any,  # noqa: ANN401 - click's
) -> Iterator[NewOperation]:
    try:
        known_by = None if idempotency_key is None else UUID(idempotency_key)
    except ValueError:
        raise InvalidKey("with --lines the key is a UUID, from which that of each line is made") from None
    for number, line in enumerate(text.split("\n"), 1):  # no other end of a line: JSON may hold those
        if payload := line.removesuffix("\r"):
            _check(payload, f"line {number}")
            key = None if known_by is None else uuid5(known_by, str(number))
            yield NewOperation(endpoint, payload, idempotency_key=key, **options)


def _tell_many(done: list[Enqueued], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(each) for each in done])
        return
    created = sum(each.created for each in done)
    before = f", {len(done) - created:,} were there already" if created < len(done) else ""
    click.echo(f"{created:,} operation{'' if created == 1 else 's'} created{before}")


def _check(text: str, what: str = "the payload") -> None:
    """Refuse what is not JSON, and say where; Postgres would only say that it is not.

    Raises:
        InvalidPayload: it is not JSON.
    """
    try:
        json.loads(text, parse_int=str, parse_float=str)  # numbers of any length are Postgres' to judge
    except ValueError as error:
        raise InvalidPayload(f"{what} is not JSON: {error}") from error
    except RecursionError:
        return  # so deep that Postgres refuses it in words of its own
