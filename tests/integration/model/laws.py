"""The laws, as what is true of the outbox, the API's ledger and the clocks after every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import httpx

from tests.integration.model.api import Api
from tests.integration.model.calls import CREDENTIAL
from tests.integration.model.clocks import CALL, KEY_SAFETY, KEY_TTL, START
from worker.operation import Answer, Operation, Verdict
from worker.retry import Decision

Row = dict[str, Any]
UNEXECUTED: Final = {"failed", "expired", "cancelled"}
MOVED: Final = ("state", "lease_token", "next_attempt_at", "response_status", "response_body", "finished_at")
"""What a late report changes nothing of."""


@dataclass(slots=True)
class Evidence:
    """What was seen so far, and must not be contradicted."""

    requests: dict[int, tuple[object, ...]] = field(default_factory=dict)
    """The first request of each operation."""
    last_number: dict[int, int] = field(default_factory=dict)
    finished: dict[int, str] = field(default_factory=dict)
    reissued: set[int] = field(default_factory=set)
    accepted: dict[int, dict[UUID, str | None]] = field(default_factory=dict)
    """The provider ids in the answers that were recorded as accepted, by lease."""
    sent: set[UUID] = field(default_factory=set)
    """The leases under which something was sent."""
    lost: set[UUID] = field(default_factory=set)
    """The leases whose claims were lost with the history that they were made in."""
    excused: set[int] = field(default_factory=set)
    """Operations that were final before they were retried in such a history: nothing on record can tell."""

    # Of one step.

    def allows_claim(self, operation: Operation, now: datetime) -> None:
        """Laws 3 and 10, and a number of its own for each attempt."""
        number = operation.lease.number
        assert number > self.last_number.get(operation.id, 0), "the number of an attempt was reused"
        self.last_number[operation.id] = number
        assert operation.claimed_at == now, "decided by another clock than Postgres'"
        assert operation.deadline_at is None or operation.deadline_at > now
        assert operation.doubt_since is None or operation.key_window_closes_at > now + CALL

    def allows_send(self, operation: Operation, request: httpx.Request, waited: timedelta) -> None:
        """Laws 2, 3 and 5: the same request each time, within the window, and once for each lease."""
        sent = (
            request.url,
            request.headers[operation.key_header],
            request.headers["authorization"],
            request.read(),
        )
        assert sent[1:] == (operation.idempotency_key, CREDENTIAL.decode(), operation.body)
        assert self.requests.setdefault(operation.id, sent) == sent, "not the same request as before"
        assert operation.claimed_at + waited + CALL <= operation.key_window_closes_at, "too late for a call"
        assert operation.lease.token not in self.sent, "sent twice under one lease"
        self.sent.add(operation.lease.token)

    def notes_report(self, before: Row, after: Row, fate: str, decision: Decision) -> None:
        """Laws 5 and 7: of one report, and of the answer in it."""
        operation, outcome = decision.operation, decision.outcome
        accepted = outcome.verdict is Verdict.ACCEPTED
        held = before["lease_token"] == operation.lease.token
        assert (fate == "recorded") == held, (fate, before)
        if fate == "repeated":
            assert after == before
        elif fate in {"late", "conflict"}:
            assert {name: after[name] for name in MOVED} == {name: before[name] for name in MOVED}
            assert not accepted or before["finished_at"] is not None, before
        elif fate == "settled":
            assert accepted
            assert before["finished_at"] is None, before
            assert after["state"] == "succeeded", after
        if fate in {"recorded", "settled"} and after["state"] != "queued":
            reply = outcome.reply
            assert recorded(after) == (plain(reply) if isinstance(reply, Answer) else NOTHING), after
        if accepted and fate != "repeated":
            self.accepted.setdefault(operation.id, {})[operation.lease.token] = outcome.provider_id

    def forget_what_was_lost(self, known: set[UUID], issued: set[UUID], rows: list[Row]) -> None:
        """Commits were lost; *rows* and the leases *known* are what is left."""
        self.lost |= issued - known
        self.finished, self.reissued = {}, set()
        self.last_number = {row["id"]: row["attempt_number"] for row in rows}
        self.accepted = {
            operation: {token: found for token, found in answers.items() if token in known}
            for operation, answers in self.accepted.items()
        }

    # Between steps.

    def allows(self, rows: list[Row], api: Api) -> None:
        """Everything that holds at any time."""
        if not api.manners.breaks_its_promise:
            no_key_is_executed_twice(api)
        for row in rows:
            if row["id"] not in self.excused:
                what_did_not_happen_did_not_happen(row, api)
                whatever_was_executed_is_in_doubt_or_done(row, api)
            what_succeeded_was_executed(row, api)
            doubt_is_dated_from_its_earliest_attempt(row)
            a_lease_ends_within_the_window(row)
            no_other_clock_was_read(row)
            self.final_is_final(row)
            self.what_proves_two_executions_is_shown(row)

    def final_is_final(self, row: Row) -> None:
        """Law 6."""
        if row["finished_at"] is not None:
            assert self.finished.setdefault(row["id"], row["state"]) == row["state"], row
        else:
            assert row["id"] not in self.finished, row

    def what_proves_two_executions_is_shown(self, row: Row) -> None:
        """Law 11: and nothing else is."""
        ids = set(self.accepted.get(row["id"], {}).values())
        assert row["conflict"] == (len(ids) > 1 or (bool(ids) and row["state"] in UNEXECUTED)), row


def no_key_is_executed_twice(api: Api) -> None:
    """Laws 3 and 4, judged by the ledger."""
    twice = {key: len(answers) for key, answers in api.executed.items() if len(answers) > 1}
    assert not twice


def a_key_still_protects(key: str, api: Api, now: timedelta) -> None:
    """Law 3: of a send that starts now."""
    if key in api.executed and not api.manners.breaks_its_promise:
        assert now - api.arrived_at[key] < KEY_TTL, "sent under a key that has expired"


def what_did_not_happen_did_not_happen(row: Row, api: Api) -> None:
    """Law 6: final is honest, as far as nobody was lied to."""
    believed = api.manners.breaks_its_promise and row["resolved_by"] is not None
    if row["state"] in UNEXECUTED and not believed:
        assert row["idempotency_key"] not in api.executed, row
        assert not api.may_execute(row["idempotency_key"]), row


def what_succeeded_was_executed(row: Row, api: Api) -> None:
    """Law 7: and has an answer that the API gave to its key."""
    if row["state"] == "succeeded":
        answers = api.executed[row["idempotency_key"]]
        if row["resolved_by"] is None:
            assert recorded(row) in map(plain, answers), row


def doubt_is_dated_from_its_earliest_attempt(row: Row) -> None:
    """Laws 3 and 10: to the microsecond. (By a clock set back, a later attempt may seem the earlier one.)"""
    since, doubts = row["first_sent_at"], row["doubts"]
    if row["finished_at"] is None and row["state"] != "unresolved":
        assert since is None if not doubts else since in doubts and since <= doubts[0], row
    if since is not None:
        assert row["key_window_closes_at"] == since + KEY_TTL - KEY_SAFETY, row


def whatever_was_executed_is_in_doubt_or_done(row: Row, api: Api) -> None:
    """Law 9: and whatever may still be."""
    if row["idempotency_key"] in api.executed or api.may_execute(row["idempotency_key"]):
        assert row["first_sent_at"] is not None or row["state"] == "succeeded", row


def a_lease_ends_within_the_window(row: Row) -> None:
    """Law 3."""
    assert row["state"] != "in_flight" or row["lease_expires_at"] <= row["key_window_closes_at"], row


def no_other_clock_was_read(row: Row) -> None:
    """Law 10: the model's clock is many years ahead of any other."""
    assert all(at > START - KEY_TTL for at in row.values() if isinstance(at, datetime)), row


NOTHING: Final = (None, None, None)


def recorded(row: Row) -> tuple[object, ...]:
    """The answer on record."""
    return row["response_status"], row["response_headers"], row["response_body"]


def plain(answer: Answer) -> tuple[object, ...]:
    """The answer as it must be on record: each byte of a header one character."""
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
    return answer.status, headers, answer.body
