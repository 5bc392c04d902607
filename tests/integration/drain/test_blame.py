"""Answers that are about more than their own operation: the credential, the account, the load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.drain.house import drained, open_test_house
from tests.integration.outbox.by_hand import HOUR, MINUTE, SECOND, Outbox
from tests.postgres import Database
from worker.caller import Caller
from worker.drain import Counts
from worker.house import House
from worker.operation import Operation, Reply, Verdict
from worker.sandbox import Fault, Sandbox, Step
from worker.stopwatch import Stopwatch

FORBIDDEN = Step(
    Fault.ANSWER, status=403, body='{"status": "error", "error_code": "NUMBER_BARRED", "message": "no"}'
)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    (tmp_path / "default").write_text("old")
    return tmp_path


async def drain_anew(database: Database, **changes: object) -> Counts:
    """A drain in a house of its own, one call at a time: time was moved for the rows, but for no process."""
    chosen = {"concurrency": 1} | ({"app_keys": {}} if "secrets_dir" in changes else {}) | changes
    async with open_test_house(database, **chosen) as house:
        return await drained(house)


def blocked(outbox: Outbox) -> bool:
    return (
        outbox.value(b"select blocked_until is not null from outbox.account where name = 'default'") is True
    )


class RotatesMeanwhile:
    """The operator renews the key while the answer to the old one is on its way."""

    def __init__(self, caller: Caller, file: Path) -> None:
        self._caller = caller
        self._file = file

    async def call(self, operation: Operation, *, claimed: Stopwatch) -> Reply:
        reply = await self._caller.call(operation, claimed=claimed)
        self._file.write_text("renewed")
        return reply


def rotating(house: House, file: Path) -> House:
    return replace(house, caller=RotatesMeanwhile(house.caller, file))  # type: ignore[arg-type]


async def test_a_401_for_a_key_that_was_renewed_meanwhile_blocks_nothing(
    outbox: Outbox, api: Sandbox, database: Database, secrets: Path
) -> None:
    api.configure(credentials={"sandbox": "renewed"})
    outbox.enqueue()
    async with open_test_house(database, secrets_dir=secrets, app_keys={}) as house:
        await drained(rotating(house, secrets / "default"))
        assert not blocked(outbox)
        outbox.go_on(3 * SECOND)
        await drained(house)
    assert [request.status for request in api.requests] == [401, 200]


async def test_a_401_for_the_present_key_blocks_the_account_until_a_probe_gets_through(
    outbox: Outbox, api: Sandbox, database: Database, secrets: Path
) -> None:
    api.configure(credentials={"sandbox": "renewed"})
    ids = outbox.enqueue_each(4) + outbox.enqueue_each(4, endpoint="voice.call")
    await drain_anew(database, secrets_dir=secrets)
    assert blocked(outbox)
    assert [request.status for request in api.requests] == [401]
    assert outbox.states(ids) == {"queued"}, "it burns no attempt and ends none"
    outbox.go_on(2 * MINUTE)
    await drain_anew(database, secrets_dir=secrets)
    assert [request.status for request in api.requests] == [401, 401], "one probe, and blocked again"
    (secrets / "default").write_text("renewed")
    outbox.go_on(HOUR)
    await drain_anew(database, secrets_dir=secrets)
    assert not blocked(outbox)
    outbox.go_on(HOUR)
    await drain_anew(database, secrets_dir=secrets)
    assert outbox.states(ids) == {"succeeded"}
    assert {row["attempt_count"] for row in map(outbox.operation, ids)} == {1}


async def test_three_different_operations_that_are_forbidden_in_a_row_block_the_account(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    api.script([FORBIDDEN] * 3)
    ids = outbox.enqueue_each(5)
    await drain_anew(database)
    assert blocked(outbox)
    assert len(api.requests) == 3
    assert [outbox.state(id_) for id_ in ids] == ["failed", "failed", "queued", "queued", "queued"]


async def test_a_number_that_is_barred_stops_nobody_while_others_get_through(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    api.script([FORBIDDEN, FORBIDDEN, None, FORBIDDEN, FORBIDDEN, None])
    ids = outbox.enqueue_each(6)
    await drain_anew(database)
    assert not blocked(outbox)
    assert [outbox.state(id_) for id_ in ids] == ["failed", "failed", "succeeded"] * 2


async def test_a_429_stops_the_endpoint_for_all_and_another_operation_is_the_probe(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    api.script([Step(Fault.TOO_MANY_REQUESTS, retry_after="20")])
    throttled, probe, rest = outbox.enqueue_each(3)
    voice = outbox.enqueue("voice.call")
    await drain_anew(database)
    assert outbox.state(voice) == "succeeded", "it stops that endpoint only"
    assert outbox.states([throttled, probe, rest]) == {"queued"}
    outbox.go_on(22 * SECOND)
    await drain_anew(database)
    sent = [request.key for request in api.requests if request.endpoint == "sms.send"]
    assert sent[:2] == [outbox.operation(id_)["idempotency_key"] for id_ in (throttled, probe)]
    assert outbox.rows(b"select from outbox.throttle") == []
    assert outbox.states([probe, rest]) == {"succeeded"}


async def test_a_retry_after_of_years_is_probed_after_an_hour(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    api.script([Step(Fault.TOO_MANY_REQUESTS, retry_after="99999999")])
    outbox.enqueue_each(2)
    await drain_anew(database)
    outbox.go_on(HOUR - MINUTE)  # which passes by itself on no machine
    assert (await drain_anew(database)).claimed == 0
    outbox.go_on(MINUTE + SECOND)
    assert (await drain_anew(database)).verdicts == {Verdict.ACCEPTED: 1}


async def test_without_a_key_nothing_is_sent_and_it_is_tried_again_with_one(
    outbox: Outbox, api: Sandbox, database: Database, secrets: Path
) -> None:
    (secrets / "default").unlink()
    id_ = outbox.enqueue()
    assert (await drain_anew(database, secrets_dir=secrets)).verdicts.keys() == {Verdict.NOT_SENT}
    assert api.requests == []
    row = outbox.operation(id_)
    assert (row["state"], row["attempt_count"], row["first_sent_at"]) == ("queued", 0, None)
    assert not blocked(outbox)
    (secrets / "default").write_text("sandbox")
    outbox.go_on(HOUR)
    assert (await drain_anew(database, secrets_dir=secrets)).verdicts == {Verdict.ACCEPTED: 1}


async def test_an_answer_is_recorded_though_postgres_takes_no_suspicion(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    outbox.do(b"alter table outbox.suspicion add constraint never check (false)")
    api.script([FORBIDDEN])
    outbox.enqueue()
    assert (await drain_anew(database)).verdicts == {Verdict.REFUSED: 1}
