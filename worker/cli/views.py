"""The views as tables: ``ringonce unresolved``, ``backlog``, ``throughput``, ``key-expiring``, ``conflict``.

And ``announcement``, a table that only grows while an app's broker takes nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from worker.cli.database import connected
from worker.cli.parameters import duration, limit
from worker.cli.printing import as_json, moment, print_rows, span
from worker.plain import discreet
from worker.store import views

__all__ = ["announcement", "backlog", "conflict", "key_expiring", "throughput", "unresolved"]

READER = "the role outbox_reader"


@click.command(
    epilog="\b\nExamples:\n  ringonce unresolved\n  ringonce unresolved --endpoint voice.broadcast --json"
)
@click.option("--account", metavar="TEXT", help="Of this account.")
@click.option("--endpoint", metavar="TEXT", help="Of this endpoint.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="ID", help="Go on behind this one.")
@limit
@as_json
def unresolved(*, as_json: bool, **choice: Any) -> None:  # noqa: ANN401 - of views.unresolved
    """Show what may have been executed and waits for a person.

    Each with its key, to ask the provider about, and what its attempts are known to have done. The oldest
    comes first. Settle it with `ringonce resolve`, `retry` or `reissue`. Numbers of phones in errors are
    masked: `ringonce show --reveal` has them.
    """
    with connected(needs=READER) as conn:
        found = discreet(views.unresolved(conn, **choice))
    print_rows(
        found,
        [
            "id",
            "account",
            "endpoint",
            "key",
            "may be executed since",
            "key protects until",
            "attempts",
            "error",
        ],
        lambda each: (
            each.id,
            each.account,
            each.endpoint,
            each.idempotency_key,
            moment(each.first_sent_at),
            moment(each.key_window_closes_at),
            _known(each.attempts),
            each.last_error,
        ),
        as_json=as_json,
    )


@click.command(epilog="\b\nExamples:\n  ringonce backlog\n  ringonce backlog --limit 5 --json")
@limit
@as_json
def backlog(*, limit: int, as_json: bool) -> None:
    """Show what is due and not claimed, by account and lane.

    What has waited longest comes first. All that is due is counted: with a million of them it takes a second.
    """
    with connected(needs=READER) as conn:
        found = views.backlog(conn, limit=limit)
    print_rows(
        found,
        ["account", "lane", "due", "oldest", "waits for", "stopped"],
        lambda each: (
            each.account,
            each.lane,
            each.due_count,
            moment(each.oldest_due_at),
            span(each.oldest_age),
            "paused" if each.paused else moment(each.blocked_until),
        ),
        as_json=as_json,
    )


@click.command(epilog="\b\nExamples:\n  ringonce throughput\n  ringonce throughput --json")
@as_json
def throughput(*, as_json: bool) -> None:
    """Show the attempts of the last hour, by minute and verdict.

    With how long they took from claim to record, to within a tenth.
    """
    with connected(needs=READER) as conn:
        found = views.throughput(conn)
    print_rows(
        found,
        ["minute", "verdict", "count", "p50", "p95", "p99"],
        lambda each: (
            moment(each.minute),
            each.verdict,
            each.count,
            *map(span, (each.p50, each.p95, each.p99)),
        ),
        as_json=as_json,
    )


@click.command(
    "key-expiring", epilog="\b\nExamples:\n  ringonce key-expiring\n  ringonce key-expiring --within 2h"
)
@click.option("--within", type=duration, metavar="DURATION", help="Whose key protects no longer than that.")
@limit
@as_json
def key_expiring(*, within: timedelta | None, limit: int, as_json: bool) -> None:
    """Show what will be retried in doubt, by the time left to its key.

    What is still in doubt when its key expires becomes unresolved.
    """
    with connected(needs=READER) as conn:
        found = discreet(views.keys_expiring(conn, limit=limit, within=within))
    print_rows(
        found,
        ["id", "account", "endpoint", "time left", "next attempt", "attempts", "error"],
        lambda each: (
            each.id,
            each.account,
            each.endpoint,
            span(max(each.time_left, timedelta(0))),
            moment(each.next_attempt_at),
            each.attempt_count,
            each.last_error,
        ),
        as_json=as_json,
    )


@click.command(epilog="\b\nExamples:\n  ringonce conflict\n  ringonce conflict --json")
@limit
@as_json
def conflict(*, limit: int, as_json: bool) -> None:
    """Show proof that the API executed a key twice, or what it had refused.

    There should be none. Tell the provider: `ringonce certificate ID` is what was sent and answered.
    """
    with connected(needs=READER) as conn:
        found = views.conflicts(conn, limit=limit)
    print_rows(
        found,
        ["id", "account", "endpoint", "key", "attempt", "provider id", "on record", "proves"],
        lambda each: (
            each.id,
            each.account,
            each.endpoint,
            each.idempotency_key,
            each.attempt_number,
            each.provider_id,
            each.recorded_provider_id,
            each.meaning,
        ),
        as_json=as_json,
    )


def _known(attempts: list[dict[str, Any]]) -> str:
    """What each attempt is known to have done: ``1 ambiguous, 2 not_sent``."""
    return ", ".join(f"{each['number']} {each['verdict'] or 'open'}" for each in attempts)


def _seconds(seconds: float) -> str | None:
    return span(timedelta(seconds=seconds))


@click.command(epilog="\b\nExamples:\n  ringonce announcement\n  ringonce announcement --limit 5 --json")
@limit
@as_json
def announcement(*, limit: int, as_json: bool) -> None:
    """Show what apps are still to be told of operations that are final.

    Tasks of on_done that the app's broker has not taken yet. The oldest comes first.
    """
    with connected(needs=READER) as conn:
        found = views.announcements(conn, limit=limit)
    print_rows(
        found,
        ["operation", "state", "task", "final since", "next attempt", "attempts"],
        lambda each: (
            each.operation_id,
            each.state,
            each.task,
            moment(each.created_at),
            moment(each.next_attempt_at),
            each.attempt_count,
        ),
        as_json=as_json,
    )
