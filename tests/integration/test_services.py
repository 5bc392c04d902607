"""A service that is missing may be passed over on a laptop, never in CI."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.services import require_postgres15, require_rabbitmq, require_redis, unique_name

REQUIRE = [
    pytest.param(require_postgres15, "postgresql://postgres@127.0.0.1:{}/postgres", id="postgres15"),
    pytest.param(require_redis, "redis://127.0.0.1:{}/9", id="redis"),
    pytest.param(require_rabbitmq, "amqp://guest:guest@127.0.0.1:{}//", id="rabbitmq"),
]


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize(("require", "url"), REQUIRE)
def test_without_its_service_a_test_is_skipped_on_a_laptop(
    require: Callable[[str], str], url: str, dead_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"needed at .*{dead_port}"):
        require(url.format(dead_port))


@pytest.mark.parametrize(("require", "url"), REQUIRE)
def test_without_its_service_a_test_fails_in_ci(
    require: Callable[[str], str], url: str, dead_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=f"needed at .*{dead_port}"):
        require(url.format(dead_port))


@pytest.mark.parametrize("require", [require_postgres15, require_redis, require_rabbitmq])
def test_a_service_that_answers_is_handed_out(require: Callable[[], str]) -> None:
    assert "127.0.0.1" in require()


def test_names_for_shared_services_never_repeat() -> None:
    assert len({unique_name() for _ in range(100)}) == 100
