"""How one operation is shown to a person who has to decide something about it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from worker.cli.printing import ago, moment, print_facts, print_table, span, visible
from worker.operation import FINAL_STATES
from worker.plain import readable
from worker.store.deliveries import DeliveryOnRecord
from worker.store.dossiers import (
    ActionOnRecord,
    AttemptOnRecord,
    Contents,
    Dossier,
    HoldOnRecord,
    OperationOnRecord,
)

__all__ = ["print_attempts", "print_contents", "print_deliveries", "print_dossier"]


def print_dossier(dossier: Dossier) -> None:
    """Print the operation, its attempts and what administrators did to it."""
    operation = dossier.operation
    click.echo(f"operation {operation.id} is {operation.state}")
    facts = _request(operation) + _course(operation, len(dossier.attempts)) + _result(operation)
    print_facts(facts + [("legal hold", _hold(each)) for each in dossier.holds])
    if dossier.attempts:
        click.echo()
        print_attempts(dossier.attempts)
    if dossier.deliveries:
        click.echo()
        print_deliveries(dossier.deliveries)
    if dossier.actions:
        click.echo()
        print_table(["action", "at", "by", "reason", "detail"], [_action(each) for each in dossier.actions])


def print_attempts(attempts: Sequence[AttemptOnRecord]) -> None:
    """Print every attempt: when, how far it got, what it means."""
    print_table(
        ["attempt", "started", "took", "verdict", "got", "status", "executed?", "provider id", "error"],
        [_attempt(each) for each in attempts],
    )


def print_deliveries(deliveries: Sequence[DeliveryOnRecord]) -> None:
    """Print whom the operation has reached, as webhooks tell."""
    print_table(
        ["recipient", "state", "in its words", "told at", "provider id", "webhook"],
        [
            [
                each.recipient,
                each.state,
                each.status,
                moment(each.told_at),
                each.provider_id or None,
                each.webhook_id,
            ]
            for each in deliveries
        ],
    )


def print_contents(contents: Contents) -> None:
    """Print payload and answers, as far as they are still there."""
    headers = contents.response_headers
    _print_text("payload", contents.payload)
    _print_text(
        "headers", None if headers is None else "\n".join(f"{name}: {value}" for name, value in headers)
    )
    _print_text("answer", readable(contents.response_body))
    for number, body in contents.late_answers.items():
        _print_text(f"late answer to attempt {number}", readable(body))


def _request(operation: OperationOnRecord) -> list[tuple[str, object]]:
    size, digest = operation.payload_size, operation.payload_sha256
    return [
        ("endpoint", operation.endpoint),
        ("account", f"{operation.account}, APP ID {operation.app_id}"),
        ("key", operation.idempotency_key),
        ("sent to", operation.url and f"{operation.url}, key in {operation.key_header}"),
        ("payload", f"{'scrubbed' if size is None else f'{size:,} bytes'}, SHA-256 {digest}"),
        ("lane", operation.lane or None),
        ("priority", operation.priority),
        ("trace", operation.traceparent),
        ("when done", operation.on_done),
        ("does again", operation.reissue_of),
        ("done again as", operation.reissued_as),
    ]


def _course(operation: OperationOnRecord, made_count: int) -> list[tuple[str, object]]:
    now = operation.seen_at
    lease = operation.leased_by and f"{operation.leased_by}, until {moment(operation.lease_expires_at)}"
    return [
        ("enqueued", f"{ago(operation.created_at, now)}, by {operation.enqueued_by}"),
        ("next attempt", ago(operation.next_attempt_at, now)),
        ("deadline", ago(operation.deadline_at, now)),
        ("attempts", _attempts(operation, made_count)),
        ("leased by", lease),
        *([] if operation.state in FINAL_STATES else _doubt(operation)),
        ("finished", ago(operation.finished_at, now)),
    ]


def _attempts(operation: OperationOnRecord, made_count: int) -> str:
    """How many were made; those that were given back, or made before a retry, use nothing up."""
    count, most = operation.attempt_count, operation.max_attempts
    if made_count == count:
        return f"{count} of at most {most}"
    return f"{made_count} made; counted: {count} of at most {most}"


def _doubt(operation: OperationOnRecord) -> list[tuple[str, object]]:
    """What matters for as long as it may be sent again."""
    now = operation.seen_at
    return [
        ("in doubt since", ago(operation.first_sent_at, now)),
        ("key protects", _window(operation)),
        ("API settles", ago(operation.settles_at, now)),
    ]


def _window(operation: OperationOnRecord) -> str | None:
    left = operation.window_left
    if left is None:
        return None
    until = f"until {moment(operation.key_window_closes_at)}"
    return f"{until}, {span(left)} left" if left.total_seconds() > 0 else f"{until}, over for {span(left)}"


def _result(operation: OperationOnRecord) -> list[tuple[str, object]]:
    size = operation.response_size
    body = "body scrubbed" if size is None else f"{size:,} bytes"
    return [
        ("answer", operation.response_status and f"{operation.response_status}, {body}"),
        ("provider id", operation.provider_id),
        ("last error", operation.last_error),
        ("same answer", f"{operation.repeat_count} times in a row" if operation.repeat_count > 1 else None),
    ]


def _hold(hold: HoldOnRecord) -> str:
    """Why it is neither scrubbed nor deleted."""
    return f"of {hold.scope}, since {moment(hold.held_at)}, by {hold.held_by}: {hold.reason}"


def _attempt(attempt: AttemptOnRecord) -> list[object]:
    end = attempt.finished_at
    verdict = "open" if attempt.verdict is None else f"{attempt.verdict}{', late' if attempt.late else ''}"
    return [
        attempt.number,
        moment(attempt.started_at),
        None if end is None else span(end - attempt.started_at),
        verdict,
        attempt.phase,
        attempt.status,
        _executed(attempt),
        attempt.provider_id,
        attempt.error,
    ]


def _executed(attempt: AttemptOnRecord) -> str:
    if attempt.verdict == "accepted":
        return "yes"
    return "perhaps" if attempt.doubt else "no"


def _action(action: ActionOnRecord) -> list[object]:
    return [action.name, moment(action.acted_at), action.acted_by, action.reason, json.dumps(action.detail)]


def _print_text(name: str, text: str | None) -> None:
    if text is not None:
        click.echo(f"\n{name}:\n{visible(text)}")
