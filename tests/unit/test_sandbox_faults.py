"""Which fault meets which request, and what a script or a switch may say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from worker.errors import SettingsError
from worker.sandbox import Credential, Fault, Faults, Gate, SandboxSettings, Step
from worker.sandbox.app import read_basic
from worker.sandbox.faults import NO_FAULT, Plan, Planned, read_step

MIXED = Faults(chances={"drop": 0.2, "429": 0.1, "hang": 0.1})


def drawn(plan: Plan, count: int = 500) -> list[Fault | None]:
    return [plan.next_step("voice.call", None).fault for _ in range(count)]


def test_the_same_seed_draws_the_same_faults() -> None:
    assert drawn(Plan(MIXED, seed=7)) == drawn(Plan(MIXED, seed=7))
    assert drawn(Plan(MIXED, seed=7)) != drawn(Plan(MIXED, seed=8))


def test_reseeding_draws_the_same_faults_again() -> None:
    plan = Plan(MIXED, seed=7)
    first = drawn(plan)
    plan.reseed(7)
    assert drawn(plan) == first


def test_the_order_in_which_chances_are_given_changes_nothing() -> None:
    turned = Faults(chances=dict(reversed(list(MIXED.chances.items()))))
    assert drawn(Plan(turned, seed=7)) == drawn(Plan(MIXED, seed=7))


def test_a_range_of_latencies_does_not_shift_the_faults() -> None:
    plan = Plan(MIXED.changed({"latency_seconds": (0.0, 1.0)}), seed=7)
    faults = []
    for _ in range(500):
        step = plan.next_step("voice.call", None)
        assert 0 <= plan.latency_of(step) <= 1
        faults.append(step.fault)
    assert faults == drawn(Plan(MIXED, seed=7))


def test_faults_strike_as_often_as_they_should() -> None:
    counted = Counter(drawn(Plan(MIXED, seed=1), count=20_000))
    assert counted[None] == pytest.approx(12_000, rel=0.05)
    assert counted[Fault.DROP] == pytest.approx(4_000, rel=0.05)
    assert counted[Fault.TOO_MANY_REQUESTS] == pytest.approx(2_000, rel=0.1)


def test_chances_that_add_up_to_one_always_strike() -> None:
    plan = Plan(Faults(chances={"drop": 0.1, "cut": 0.2, "hang": 0.7}), seed=1)
    assert None not in drawn(plan, count=5_000)


def test_a_script_comes_before_chance_and_ends() -> None:
    plan = Plan(Faults(chances={"cut": 1.0}), seed=1)
    plan.script(["drop", None])
    assert drawn(plan, count=3) == [Fault.DROP, None, Fault.CUT]


def test_the_script_of_a_key_comes_before_that_of_its_endpoint_and_before_the_common_one() -> None:
    plan = Plan(Faults(), seed=1)
    plan.script(["hang"])
    plan.script(["cut"], endpoint="sms.send")
    plan.script(["drop"], key="k")
    met = [plan.next_step("sms.send", "k").fault for _ in range(4)]
    assert met == [Fault.DROP, Fault.CUT, Fault.HANG, None]


def test_the_script_of_a_key_or_an_endpoint_leaves_others_alone() -> None:
    plan = Plan(Faults(), seed=1)
    plan.script(["drop"], key="k")
    plan.script(["cut"], endpoint="sms.send")
    assert plan.next_step("voice.call", "other") is NO_FAULT


def test_a_script_for_both_a_key_and_an_endpoint_is_refused() -> None:
    with pytest.raises(SettingsError, match="not to both"):
        Plan(Faults(), seed=1).script(["drop"], key="k", endpoint="sms.send")


def test_a_script_with_one_bad_step_adds_nothing() -> None:
    plan = Plan(Faults(), seed=1)
    with pytest.raises(SettingsError, match="known are refuse, reset_before"):
        plan.script(["drop", "explode"])
    assert plan.next_step("voice.call", None) is NO_FAULT


@pytest.mark.parametrize(
    ("planned", "step"),
    [
        ("drop", Step(Fault.DROP)),
        (None, NO_FAULT),
        ({"fault": "429", "retry_after": 7}, Step(Fault.TOO_MANY_REQUESTS, retry_after="7")),
        ({"latency_seconds": 3}, Step(latency_seconds=3.0)),
        (Step(Fault.HANG), Step(Fault.HANG)),
    ],
)
def test_a_step_can_be_written_in_short(planned: Planned, step: Step) -> None:
    assert read_step(planned) == step


@pytest.mark.parametrize(
    "planned",
    [
        {"fault": "drop", "secs": 1},
        {"fault": "hang", "seconds": -1},
        {"fault": "hang", "seconds": float("nan")},
        {"fault": "429", "retry_after": "1\r\nx: y"},
        {"fault": "answer", "status": 99},
        {"fault": "answer", "status": "409"},
        {"fault": "answer", "status": 204, "body": "x"},
        {"fault": "answer", "headers": {"content-length": "3"}},
        {"fault": "answer", "headers": {"x y": "3"}},
        {"fault": "answer", "headers": ["x"]},
        {"fault": "answer", "executed": "yes"},
        {"status": 409},
    ],
    ids=str,
)
def test_a_step_that_cannot_be_played_is_refused(planned: Mapping[str, object]) -> None:
    with pytest.raises(SettingsError):
        read_step(planned)


@pytest.mark.parametrize(
    "changes",
    [
        {"chances": {"explode": 0.1}},
        {"chances": {"answer": 0.1}},
        {"chances": {"drop": 1.5}},
        {"chances": {"drop": 0.6, "hang": 0.6}},
        {"chances": ["drop"]},
        {"latency_seconds": [2, 1]},
        {"latency_seconds": "fast"},
        {"hang_seconds": "long"},
        {"retry_after": ""},
        {"unheard_of": 1},
    ],
    ids=str,
)
def test_faults_that_cannot_be_played_are_refused(changes: Mapping[str, object]) -> None:
    with pytest.raises(SettingsError):
        Faults().changed(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": "sideways"},
        {"concurrent": True},
        {"errors_cached": "yes"},
        {"key_ttl_seconds": -1},
        {"credentials": {"a:b": "key"}},
        {"credentials": {"app": ""}},
        {"credentials": {"app": {"standing": "active"}}},
        {"credentials": {"app": {"app_key": "k", "standing": "gone"}}},
        {"credentials": ["app"]},
        {"faults": 3},
        {"seed": "x"},
        {"ledger_limit": 0},
        {"replay_header": "no good"},
        {"unheard_of": 1},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(changes: Mapping[str, object]) -> None:
    with pytest.raises(SettingsError):
        SandboxSettings().changed(changes)


def test_changing_one_fault_leaves_the_others() -> None:
    before = SandboxSettings(faults=Faults(chances={"drop": 0.5}, hang_seconds=9))
    after = before.changed({"faults": {"retry_after": "9"}, "gate": "after_key"})
    assert after.faults == Faults(chances={"drop": 0.5}, hang_seconds=9, retry_after="9")
    assert after.gate is Gate.AFTER_KEY


def test_an_app_key_is_shown_nowhere() -> None:
    settings = SandboxSettings(credentials={"app": Credential("canary")})
    assert "canary" not in repr(settings)
    assert "canary" not in str(settings.to_json())


@pytest.mark.parametrize(
    ("header", "read"),
    [
        (b"Basic YXBwOmtleTp3aXRoOmNvbG9ucw==", ("app", "key:with:colons")),
        (b"basic YXBwOmtleQ==", ("app", "key")),
        (b"Basic YXBw", ("app", "")),
        (b"Bearer YXBwOmtleQ==", ("", "")),
        (b"Basic ###", ("", "")),
        (b"Basic /////w==", ("", "")),
        (b"", ("", "")),
    ],
)
def test_basic_credentials_are_read(header: bytes, read: tuple[str, str]) -> None:
    assert read_basic(header) == read
