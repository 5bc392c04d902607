"""``ringonce endpoint list``, ``show`` and ``set``: an API method is a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

import click

from worker.cli.database import connected
from worker.cli.parameters import duration
from worker.cli.printing import as_json, print_facts, print_json, print_rows, span
from worker.errors import UnknownEndpoint
from worker.store import administration, views
from worker.store.views import EndpointOnRecord

__all__ = ["endpoint"]

NOTHING: Final = object()
"""What takes a value away; ``none`` on the command line."""

EXAMPLES: Final = """\b
Examples:
  ringonce endpoint list
  ringonce endpoint show voice.call
  ringonce endpoint set stripe.meter_event --path /v2/billing/meter_events \\
      --success-field object --success-value '"v2.billing.meter_event"' --id-field identifier --key-ttl 24h
  ringonce endpoint set voice.call --call-deadline 20s --max-attempts 5

Durations: 30s, 10min, 24h, 1h30min. Operations that were claimed before keep their path and header.
"""


def _or_none(kind: Callable[[str], object]) -> Callable[[str], object]:
    """What *kind* reads; ``none`` is NOTHING."""
    return lambda text: NOTHING if text == "none" else kind(text)


def _exactly(text: str) -> str:
    return f"{duration(text).total_seconds():.6f} s"


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise click.BadParameter(f'{text!r} is not JSON, such as 0, true or "ok".') from None


@click.group(epilog=EXAMPLES)
def endpoint() -> None:
    """Add, change and list endpoints: another API is another row."""


@endpoint.command("list", epilog=EXAMPLES)
@as_json
def list_(*, as_json: bool) -> None:
    """List the endpoints, and how long their keys protect."""
    with connected(needs="the role outbox_reader") as conn:
        found = views.endpoints(conn)
    print_rows(
        found,
        ["endpoint", "path", "id field", "key lives", "less", "settle", "call deadline", "attempts"],
        lambda each: (
            each.name,
            each.path,
            each.id_field,
            *map(span, (each.key_ttl, each.key_safety, each.settle, each.call_deadline)),
            each.max_attempts,
        ),
        as_json=as_json,
    )


@endpoint.command(epilog=EXAMPLES)
@click.argument("name")
@as_json
def show(*, name: str, as_json: bool) -> None:
    """Show all that the endpoint NAME is told by."""
    with connected(needs="the role outbox_reader") as conn:
        found = views.endpoints(conn, name)
    if not found:
        raise UnknownEndpoint(f"there is no endpoint {name!r}")
    if as_json:
        print_json(found[0])
        return
    click.echo(f"endpoint {name}")
    print_facts(_facts(found[0]))


@endpoint.command("set", epilog=EXAMPLES)
@click.argument("name")
@click.option("--path", metavar="PATH", help="Appended to the account's base URL. Needed once.")
@click.option(
    "--success-field",
    type=_or_none(str),
    metavar="NAME|none",
    help="Member of a 2xx answer that tells success.",
)
@click.option("--success-value", type=_json, metavar="JSON", help="What that member must be.")
@click.option("--id-field", type=_or_none(str), metavar="NAME|none", help="Member with the API's id.")
@click.option("--key-header", metavar="NAME", help="Header that carries the key.")
@click.option("--key-ttl", type=_exactly, metavar="DURATION", help="How long the API keeps a key.")
@click.option("--key-safety", type=_exactly, metavar="DURATION", help="Taken off that.")
@click.option(
    "--settle", type=_exactly, metavar="DURATION", help="How long the API may stay busy unanswered."
)
@click.option("--call-deadline", type=_exactly, metavar="DURATION", help="Total time for one call.")
@click.option("--max-attempts", type=click.IntRange(1, 1000), help="Attempts before it is given up.")
@click.option("--backoff", type=_exactly, metavar="DURATION", help="Wait before the second; then doubled.")
@click.option("--backoff-cap", type=_exactly, metavar="DURATION", help="The longest wait.")
@click.option(
    "--default-deadline", type=_or_none(_exactly), metavar="DURATION|none", help="Of what names no deadline."
)
@click.option("--last-try/--no-last-try", default=None, help="Save an attempt for the end of the window.")
@click.option(
    "--refusal-is-proof/--no-refusal-is-proof", default=None, help="A refusal takes earlier doubt away."
)
@click.option("--caches-errors/--no-caches-errors", default=None, help="Errors are replayed under their key.")
@click.option(
    "account_codes",
    "--account-code",
    multiple=True,
    metavar="TEXT|none",
    help="Code of a 403 that speaks of the account; all of them, one each time.",
)
@as_json
def set_(*, name: str, account_codes: tuple[str, ...], as_json: bool, **options: Any) -> None:  # noqa: ANN401 - click's
    """Add the endpoint NAME, or change what is given of it.

    A new one behaves like those of EnableX until it is told otherwise.
    """
    changes = _changes(options)
    if account_codes:
        changes["account_codes"] = [] if account_codes == ("none",) else account_codes
    with connected(needs="the role outbox_admin") as conn, conn.transaction():
        path = options["path"]
        added = path is not None and administration.add_endpoint(conn, name, path)
        before = views.endpoints(conn, name)
        if not before:
            raise UnknownEndpoint(f"there is no endpoint {name!r} yet: give its --path")
        if changes:
            administration.change_endpoint(conn, name, changes)
        [after] = views.endpoints(conn, name)
    changed = _is_another(before[0], after)
    if as_json:
        print_json({"added": added, "changed": changed, **asdict(after)})
    elif added or changed:
        click.echo(f"endpoint {name} {'added' if added else 'changed'}")
    else:
        click.echo(f"endpoint {name} is that already: nothing was changed")


def _changes(options: dict[str, Any]) -> dict[str, object]:
    """What is given, with null for what is taken away."""
    given = {
        name: None if value is NOTHING else value for name, value in options.items() if value is not None
    }
    if options["success_field"] is NOTHING:
        given["success_value"] = None
    return given


def _is_another(before: EndpointOnRecord, after: EndpointOnRecord) -> bool:
    return asdict(before) | {"revision": after.revision} != asdict(after)


def _facts(found: EndpointOnRecord) -> list[tuple[str, object]]:
    told = [(name.replace("_", " "), _told(value)) for name, value in asdict(found).items() if name != "name"]
    return [(name, value) for name, value in told if name != "success value"] + [
        ("success value", json.dumps(found.success_value) if found.success_field else None)
    ]


def _told(value: object) -> object:
    match value:
        case timedelta():
            return span(value)
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(value)
    return value
