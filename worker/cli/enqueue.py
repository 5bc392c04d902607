"""``ringonce enqueue``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from worker import producer
from worker.cli.database import connected
from worker.cli.parameters import zoned_time
from worker.cli.printing import as_json, print_json
from worker.errors import InvalidPayload

__all__ = ["enqueue"]


EXAMPLES: Final = """\b
Examples:
  ringonce enqueue voice.call '{"from": "+6512345678", "to": ["+919876543210"]}'
  ringonce enqueue sms.send @message.json --lane newsletter --priority 3
  make-message | ringonce enqueue sms.send - --key 0b9c8d3e-7f64-4d0e-9a52-3c1f0de7a111
  ringonce enqueue voice.call @call.json --deadline 2026-11-24T18:30:00+01:00
"""


@click.command(epilog=EXAMPLES)
@click.argument("endpoint")
@click.argument("payload", metavar="PAYLOAD|@FILE|-")
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
def enqueue(*, endpoint: str, payload: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - click's
    """Write one operation into the outbox.

    PAYLOAD is a JSON object, which is sent to the letter; @FILE reads it from a file and - from standard
    input, less the line end at its end. The same key with the same request returns the first operation;
    with another request it is refused.
    """
    text = _read(payload)
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


def _check(text: str) -> None:
    """Refuse what is not JSON, and say where; Postgres would only say that it is not.

    Raises:
        InvalidPayload: it is not JSON.
    """
    try:
        json.loads(text, parse_int=str, parse_float=str)  # numbers of any length are Postgres' to judge
    except ValueError as error:
        raise InvalidPayload(f"the payload is not JSON: {error}") from error
    except RecursionError:
        return  # so deep that Postgres refuses it in words of its own
