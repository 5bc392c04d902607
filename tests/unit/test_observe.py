from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pydantic import SecretStr

from tests.unit.attempts import operation
from worker.observe import CHATTY, LEVELS, Event, configure, emit, formatter, is_heard, meter, named
from worker.operation import Verdict
from worker.settings import Settings


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """Loggers are the process's: give them back as they were."""
    loggers = [logging.getLogger(name) for name in ("ringonce", *CHATTY)]
    before = [(each.level, each.propagate, each.handlers[:]) for each in loggers]
    yield
    for each, (level, propagate, handlers) in zip(loggers, before, strict=True):
        each.level, each.propagate, each.handlers[:] = level, propagate, handlers
        each.setLevel(level)


def settings(**chosen: object) -> Settings:
    return Settings.model_validate({"database_url": SecretStr("postgresql://"), **chosen})


def test_an_event_is_one_json_object_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    configure(settings(log_format="json"))

    emit(Event.RESCUED, count=3, node="a")

    out, err = capfd.readouterr()
    line = json.loads(err)
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() == timedelta(0)
    assert line == {"event": "rescued", "level": "warning", "count": 3, "node": "a"}
    assert out == ""


def test_an_event_is_one_line_for_a_person(capfd: pytest.CaptureFixture[str]) -> None:
    configure(settings(log_format="console"))

    emit(Event.RESCUED, count=3, error="two\nlines")

    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert re.search(r"warning.*rescued.*count=3", err)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_values_are_written_plainly(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    configure(settings(log_format=log_format))

    emit(
        Event.BLOCKED,
        wait=timedelta(days=1, seconds=0.5),
        until=datetime(2030, 1, 2, tzinfo=UTC),
        token=UUID(int=1),
        verdict=Verdict.REFUSED,
        error=ValueError("bad"),
    )

    err = capfd.readouterr().err
    for value in (
        "86400.5",
        "2030-01-02T00:00:00+00:00",
        "00000000-0000-0000-0000-000000000001",
        "refused",
        "ValueError: bad",
    ):
        assert value in err


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    configure(settings(log_format=log_format))

    def fail(key: str) -> None:
        raise RuntimeError(str(len(key)))

    try:
        fail("can" + "ary")
    except RuntimeError:
        emit(Event.UPKEEP_FAILED, exc_info=True)

    err = capfd.readouterr().err
    assert "RuntimeError: 6" in err
    assert "canary" not in err


def test_what_is_below_the_level_is_not_said(capfd: pytest.CaptureFixture[str]) -> None:
    configure(settings(log_level="WARNING"))
    emit(Event.CLAIMED, count=1)
    emit(Event.RECONNECTED)
    assert capfd.readouterr().err == ""

    configure(settings(log_level="DEBUG"))
    emit(Event.CLAIMED, count=1)
    assert "claimed" in capfd.readouterr().err


def test_configuring_twice_does_not_say_things_twice(capfd: pytest.CaptureFixture[str]) -> None:
    configure(settings())
    configure(settings())

    emit(Event.RECONNECTED)

    assert capfd.readouterr().err.count("reconnected") == 1


def test_events_do_not_reach_celerys_handlers_as_well(caplog: pytest.LogCaptureFixture) -> None:
    configure(settings())
    emit(Event.RECONNECTED)
    assert caplog.records == []


def test_an_unchecked_certificate_is_said_at_the_start(capfd: pytest.CaptureFixture[str]) -> None:
    configure(settings())
    assert capfd.readouterr().err == ""

    configure(settings(tls_verify=False))
    assert "tls_unverified" in capfd.readouterr().err


def test_http_clients_do_not_log_each_request() -> None:
    configure(settings(log_level="DEBUG"))
    assert CHATTY == ("aiohttp", "httpcore", "httpx")
    assert not any(logging.getLogger(f"{name}.client").isEnabledFor(logging.INFO) for name in CHATTY)


def test_celerys_loggers_and_the_root_are_left_alone() -> None:
    watched = [logging.getLogger(name) for name in (None, "celery", "celery.task", "kombu")]
    before = [(each.level, each.handlers[:], each.propagate, each.disabled) for each in watched]

    configure(settings())

    assert [(each.level, each.handlers[:], each.propagate, each.disabled) for each in watched] == before


def test_records_of_other_loggers_can_take_the_same_form() -> None:
    record = logging.LogRecord(
        "celery.worker", logging.WARNING, "file.py", 1, "lost %s", ("contact",), exc_info=None
    )

    line = json.loads(formatter(settings(log_format="json")).format(record))

    assert (line["event"], line["level"], line["logger"]) == ("lost contact", "warning", "celery.worker")


def test_event_names_are_words_of_a_log_line() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", event) for event in Event)
    assert set(LEVELS.values()) <= {logging.DEBUG, logging.WARNING, logging.ERROR}


@pytest.fixture
def unmetered() -> Iterator[None]:
    yield
    meter(None)


@pytest.mark.usefixtures("unmetered")
def test_whoever_counts_learns_of_every_event_whether_it_is_logged_or_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure(settings(log_level="WARNING"))
    assert not is_heard(Event.CLAIMED)
    heard: list[tuple[Event, object]] = []
    meter(lambda event, fields: heard.append((event, dict(fields))))
    assert is_heard(Event.CLAIMED)

    emit(Event.CLAIMED, count=1)
    emit(Event.RESCUED, count=2)

    assert heard == [(Event.CLAIMED, {"count": 1}), (Event.RESCUED, {"count": 2})]
    err = capfd.readouterr().err
    assert "claimed" not in err
    assert "rescued" in err


@pytest.mark.usefixtures("unmetered")
def test_a_count_that_fails_is_said_once_and_reaches_nobody_who_said_something(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure(settings(log_format="json"))

    def fail(event: Event, fields: object) -> None:
        raise OSError(event, fields)

    meter(fail)
    emit(Event.RESCUED, count=1)
    emit(Event.RESCUED, count=2)

    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["metrics_failed", "rescued", "rescued"]


def test_what_is_said_of_an_attempt_names_operation_number_and_trace() -> None:
    traced = operation(traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    number = traced.lease.number
    assert named(traced) == {"operation": traced.id, "number": number, "trace_id": "a" * 32}
    assert set(named(operation())) == {"operation", "number"}
