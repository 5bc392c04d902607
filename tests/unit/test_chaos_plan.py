"""What a seed of chaos draws, and what of it can be played."""

from __future__ import annotations

import shutil

import pytest

from tests.acceptance.test_chaos import SECONDS, SEEDS
from tests.chaos.schedule import BROKER, NODES, ORGANS, SHORT_TTL, Schedule, plan
from tests.chaos.stage import broker_at_hand

WITH_REDIS = 519


def no_redis(program: str) -> None:
    """Where ``shutil.which`` finds *program*: nowhere."""
    assert program == "redis-server"


def drawn() -> Schedule:
    schedule = plan(WITH_REDIS, SECONDS)
    assert schedule.setup.broker == "redis"
    assert schedule.of(BROKER)
    return schedule


def organ(name: str) -> str:
    """Nodes are alike."""
    return "node" if name in NODES else name


def test_the_runs_of_the_gate_meet_every_failure_between_them() -> None:
    met = {(organ(each.organ), each.kind) for seed in SEEDS for each in plan(seed, SECONDS).events}
    assert met == {(organ(name), kind.name) for name, each in ORGANS.items() for kind in each.kinds}


def test_the_runs_of_the_gate_differ_in_every_open_question() -> None:
    one, other = (plan(seed, SECONDS).setup for seed in SEEDS)
    assert {one.broker, other.broker} == {"memory", "redis"}
    assert SHORT_TTL in {one.key_ttl, other.key_ttl}
    assert None in {one.retry_after, other.retry_after}
    assert [name for name in one.sandbox if one.sandbox[name] == other.sandbox[name]] == []
    assert {"prefork", "threads"} == {pool for setup in (one, other) for pool in setup.pools[2:]}


def test_a_run_without_redis_says_that_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(shutil, "which", no_redis)
    played = broker_at_hand(drawn())
    assert "broker memory (no redis-server here)" in str(played)
    assert not played.of(BROKER)


def test_a_run_without_redis_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(shutil, "which", no_redis)
    with pytest.raises(RuntimeError, match="needs redis-server"):
        broker_at_hand(drawn())


def test_a_run_is_played_as_it_was_drawn_where_everything_is_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "redis-server")
    assert broker_at_hand(drawn()) == drawn()
    assert broker_at_hand(plan(7, SECONDS)) == plan(7, SECONDS)
