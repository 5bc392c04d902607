"""An API may repeat our credential in its own words: it reaches no error on record."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from tests.integration.drain.house import open_test_house
from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Database
from worker.delivery import conclude
from worker.operation import Answer
from worker.stopwatch import Stopwatch

CANARY = "canary-key-1234"


@pytest.mark.parametrize("told", [b'"X","message":"I was sent %b"', b'"%b"'])
@pytest.mark.parametrize("form", ["encoded", "bare"])
async def test_a_credential_that_an_api_repeats_stands_in_no_error(
    outbox: Outbox, database: Database, told: bytes, form: str
) -> None:
    id_ = outbox.enqueue()
    async with open_test_house(database, app_keys={"RINGONCE_APP_KEY_DEFAULT": SecretStr(CANARY)}) as house:
        [operation] = await house.leases.claim(1)
        credential = house.credentials.basic("default", "sandbox")
        encoded = credential.removeprefix(b"Basic ")
        answer = Answer(
            422, (), b'{"error_code":%b}' % (told % (encoded if form == "encoded" else CANARY.encode()))
        )
        decision, _ = await conclude(house, operation, answer, Stopwatch.start(), credential=credential)
    [attempt] = outbox.attempts(id_)
    for error in (decision.error, attempt["error"], outbox.operation(id_)["last_error"]):
        assert error is not None
        assert "***" in error
        assert CANARY not in error
        assert encoded.decode() not in error


async def test_a_credential_that_an_api_repeats_as_its_hint_stands_in_no_log(
    outbox: Outbox, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.enqueue()
    caplog.set_level("DEBUG", "ringonce")
    async with open_test_house(database, app_keys={"RINGONCE_APP_KEY_DEFAULT": SecretStr(CANARY)}) as house:
        [operation] = await house.leases.claim(1)
        credential = house.credentials.basic("default", "sandbox")
        answer = Answer(429, ((b"Retry-After", CANARY.encode()),), b"{}")
        await conclude(house, operation, answer, Stopwatch.start(), credential=credential)
    assert "hint_ignored" in caplog.text
    assert CANARY not in caplog.text
