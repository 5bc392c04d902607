"""What can be set about the sandbox's webhooks, and what is drawn."""

from __future__ import annotations

import json

import pytest

from worker.errors import SettingsError
from worker.operation import Answer
from worker.sandbox import Execution, SandboxSettings, Told, Webhooks
from worker.sandbox.webhooks import Announcer

BODY = json.dumps({"to": ["+911", "+912"], "reference": "key-1"}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": 1.1}, {"silence": -0.1}, {"duplicates": "often"}, {"delay_seconds": (2, 1)}, {"url": "ftp://x"},
        {"url": "http://"}, {"secret": ""}, {"signed": 1}, {"nonsense": True},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_nothing_is_changed(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        SandboxSettings().changed({"webhooks": changes})


def test_the_secret_is_never_shown() -> None:
    settings = SandboxSettings(webhooks=Webhooks(url="http://127.0.0.1/", secret="canary-secret"))
    assert "canary" not in repr(settings) + json.dumps(settings.to_json(), default=str)
    assert settings.changed({"webhooks": {"loss": 0.5}}).webhooks.secret == "canary-secret"


async def drawn(seed: int, **chances: float) -> list[Told]:
    """What is to be told of 200 executions."""

    async def pause(_: float) -> None:
        """Nobody waits."""

    announcer = Announcer(Webhooks(url="http://127.0.0.1:1/", **chances), seed, most=10_000, pause=pause)  # type: ignore[arg-type]
    for number in range(200):
        answer = Answer(200, (), b"{}")
        execution = Execution(number, 1e9, "a", "sms.send", None, "", f"job-{number}", None, answer)
        announcer.announce(execution, "job_id", BODY)
    told = list(announcer.told)
    await announcer.close()
    return told


async def test_the_same_seed_draws_the_same_and_another_seed_another() -> None:
    chances = {"loss": 0.2, "silence": 0.2, "failures": 0.3}
    first = await drawn(7, **chances)
    assert first == await drawn(7, **chances)
    assert first != await drawn(8, **chances)


async def test_every_recipient_is_told_of_in_stages_and_the_chances_are_those_that_were_set() -> None:
    told = await drawn(1)
    assert [each.status for each in told[:6]] == ["queued", "sent", "delivered"] * 2
    assert len(told) == 200 * 6
    assert not any(each.lost for each in told)
    lossy = await drawn(1, loss=0.25)
    assert 0.2 < sum(each.lost for each in lossy) / len(lossy) < 0.3
    silent = {each.provider_id for each in await drawn(1, silence=0.25) if each.lost}
    assert 30 < len(silent) < 70
    assert all(each.lost for each in await drawn(1, silence=1.0))
