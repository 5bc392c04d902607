"""What a bell rings for, look by look, against the real outbox; ``tests/acceptance`` has its thread."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from celery import Celery
from celery.worker import state
from kombu.transport.memory import Channel
from pydantic import SecretStr

from tests.clocks import HandSetClock
from tests.postgres import Database
from tests.round_trips import counting
from worker import doorbell, wakeups
from worker.doorbell import DRAIN, DRAIN_EXPIRES, LONGEST_ROUND, UPKEEP, Bell, Counts
from worker.errors import StoreRefused
from worker.rope import QUEUE, REST
from worker.settings import Settings
from worker.stopping import Cord
from worker.store import rota

CONCURRENCY = 10
LINGER, POLL = 0.5, 60
LEASE = timedelta(seconds=20)


class Request:
    """What Celery keeps for a task that runs."""


@pytest.fixture
def clock() -> HandSetClock:
    return HandSetClock()


def make_app(broker: str) -> Celery[Any]:
    wakeups.install()
    app: Celery[Any] = Celery("bell", broker=broker, set_as_current=False)
    app.conf.update(task_default_queue=QUEUE, task_ignore_result=True, accept_content=["json"])
    return app


@pytest.fixture
def app() -> Iterator[Celery[Any]]:
    Channel.queues.pop(QUEUE, None)
    app = make_app("memory://localhost")
    yield app
    Channel.queues.pop(QUEUE, None)
    app.close()


def settings_for(database: Database, *, notify: bool = True) -> Settings:
    return Settings(
        _env_file=None,
        database_url=SecretStr(database.url),
        concurrency=CONCURRENCY,
        linger_seconds=LINGER,
        poll_seconds=POLL,
        node="here",
        notify=notify,
    )


@pytest.fixture
def bell(app: Celery[Any], database: Database, clock: HandSetClock) -> Bell:
    return Bell(app, settings_for(database), slots=lambda: 3, stop=Cord(), clock=clock)


def rung() -> list[str]:
    """Take the rings out of the queue, as a pool would that answers them."""
    queue = Channel.queues.get(QUEUE)
    return [queue.get()["headers"]["task"] for _ in range(queue.qsize())] if queue else []


def enqueue(conn: psycopg.Connection, count: int = 1, *, in_seconds: float = 0) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app') on conflict do nothing")
    when = "clock_timestamp() + make_interval(secs => %s)"
    conn.execute(
        f"select outbox.enqueue('sms.send', '{{}}', not_before => {when}) from generate_series(1, %s)",
        [in_seconds, count],
    )


def test_empty_outbox_is_not_rung_for(bell: Bell, conn: psycopg.Connection) -> None:
    assert bell.run_once(conn) == Counts(upkeeps=1)
    assert rung() == [UPKEEP]


def test_ring_carries_nothing_and_expires_within_a_minute(bell: Bell, conn: psycopg.Connection) -> None:
    enqueue(conn)
    bell.run_once(conn)
    message = Channel.queues[QUEUE].get()
    assert message["headers"]["argsrepr"] == "()"
    assert message["headers"]["kwargsrepr"] == "{}"
    assert message["properties"]["expiration"] == "60000"
    assert message["headers"]["eta"] is None


@pytest.mark.parametrize(("due", "drains"), [(1, 1), (10, 1), (11, 2), (21, 3), (1000, 3)])
def test_as_many_drains_are_rung_for_as_the_work_is_worth_and_there_are_slots(
    due: int, drains: int, bell: Bell, conn: psycopg.Connection
) -> None:
    enqueue(conn, due)
    assert bell.run_once(conn).drains == drains
    assert rung().count(DRAIN) == drains


def test_no_slot_is_rung_for_twice_while_its_ring_is_unanswered(bell: Bell, conn: psycopg.Connection) -> None:
    enqueue(conn, 15)
    assert bell.run_once(conn).drains == 2
    assert bell.run_once(conn).drains == 0  # two rings and one for upkeep lie there
    rung()
    assert bell.run_once(conn).drains == 2


@pytest.fixture
def slow_looks(clock: HandSetClock, monkeypatch: pytest.MonkeyPatch) -> float:
    """How long each look takes: somebody holds an old snapshot."""

    def due_slowly(conn: psycopg.Connection, *, limit: int) -> tuple[int, float | None]:
        clock.now += 0.5
        return due(conn, limit=limit)

    due = rota.due
    monkeypatch.setattr(rota, "due", due_slowly)
    return 0.5


def test_looks_that_take_long_get_a_fiftieth_of_the_time(
    bell: Bell, conn: psycopg.Connection, clock: HandSetClock, slow_looks: float
) -> None:
    assert [bell.run_once(conn).drains for _ in range(2)] == [0, 0]
    enqueue(conn)
    clock.now += 48.9 * slow_looks
    assert bell.run_once(conn).drains == 0
    clock.now += 0.2 * slow_looks
    assert bell.run_once(conn).drains == 1


@pytest.mark.usefixtures("slow_looks")
def test_a_bell_that_spares_its_looks_keeps_its_rounds(
    database: Database, app: Celery[Any], clock: HandSetClock
) -> None:
    class Waits(Cord):
        """Notes each wait instead of waiting; pulled at the fifth."""

        def __init__(self) -> None:
            super().__init__()
            self.waits: list[float] = []

        def wait(self, seconds: float, *others: int) -> bool:
            if not others:
                return super().wait(seconds)
            self.waits.append(seconds)
            clock.now += seconds
            if len(self.waits) == 5:
                self.pull()
            return False

    stop = Waits()
    Bell(app, settings_for(database), slots=lambda: 3, stop=stop, clock=clock).run()
    assert max(stop.waits) <= 1.25 * LONGEST_ROUND  # a poll's jitter


def test_an_idle_round_asks_three_things(bell: Bell, database: Database, clock: HandSetClock) -> None:
    with counting(database.tcp_url) as trips, psycopg.connect(trips.url, autocommit=True) as conn:
        bell.run_once(conn)
        before = trips.taken
        clock.now += LONGEST_ROUND
        assert bell.run_once(conn) == Counts(upkeeps=1)
        assert trips.taken - before == 3


def test_taken_slots_are_not_rung_for(bell: Bell, conn: psycopg.Connection) -> None:
    enqueue(conn, 1000)
    running = [Request(), Request()]
    for request in running:
        state.active_requests.add(request)
    try:
        assert bell.run_once(conn).drains == 1
    finally:
        state.active_requests.clear()


def test_what_is_not_due_or_not_allowed_now_is_not_rung_for(bell: Bell, conn: psycopg.Connection) -> None:
    enqueue(conn, in_seconds=60)
    assert bell.run_once(conn).drains == 0
    enqueue(conn)
    conn.execute("select outbox.pause('default', 'a person asked for it')")
    assert bell.run_once(conn).drains == 0


def test_announcement_is_rung_for_at_once_unless_a_drain_is_awake_to_hear_it(
    bell: Bell, clock: HandSetClock
) -> None:
    bell.announce()
    assert rung() == [DRAIN]
    for _ in range(5):  # one announcement after the other keeps the drain awake
        clock.now += 0.9 * LINGER
        bell.announce()
    assert rung() == []
    clock.now += 1.1 * LINGER
    bell.announce()
    assert rung() == [DRAIN]


def test_a_drain_that_left_something_is_followed_by_another_though_it_is_awake_still(
    bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbell, "active_requests", {Request()})
    bell.announce(["here", "", "elsewhere", "here"])
    assert rung() == [DRAIN, DRAIN]  # each bell for its own node: no ring leaves it
    bell.announce(["elsewhere", ""])
    assert rung() == []


def test_with_a_shared_broker_the_bell_goes_on_for_every_node(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    bell = Bell(make_app("redis://127.0.0.1:1/0"), settings_for(database), slots=lambda: 3, stop=Cord())
    rings: list[tuple[str, float]] = []
    monkeypatch.setattr(bell._rope, "ring", lambda task, *, expires: rings.append((task, expires)))
    bell.announce(["elsewhere", "here"])
    assert rings == [(DRAIN, DRAIN_EXPIRES)] * 2


def test_upkeep_is_rung_for_once_a_round(bell: Bell, conn: psycopg.Connection, clock: HandSetClock) -> None:
    assert [bell.run_once(conn).upkeeps for _ in range(3)] == [1, 0, 0]
    clock.now += LONGEST_ROUND
    assert [bell.run_once(conn).upkeeps for _ in range(2)] == [1, 0]


# The rota


def test_one_bell_of_many_is_elected_and_knows_the_slots_of_all(conn: psycopg.Connection) -> None:
    duties = [rota.sign_on(conn, node=node, slots=2, lease=LEASE) for node in ("a", "b", "c", "b", "a")]
    assert [duty.elected for duty in duties] == [True, False, False, False, True]
    assert [duty.slots for duty in duties] == [2, 4, 6, 6, 6]


def test_bell_that_let_its_lease_lapse_goes_to_the_end(conn: psycopg.Connection) -> None:
    for node in ("frozen", "other"):
        rota.sign_on(conn, node=node, slots=2, lease=LEASE)
    conn.execute("update outbox.worker set lease_expires_at = clock_timestamp() where node = 'frozen'")
    assert rota.sign_on(conn, node="other", slots=2, lease=LEASE) == rota.Duty(elected=True, slots=2)
    assert rota.sign_on(conn, node="frozen", slots=2, lease=LEASE) == rota.Duty(elected=False, slots=4)


def test_bell_that_signs_off_hands_its_office_on_at_once(conn: psycopg.Connection) -> None:
    for node in ("leaver", "other"):
        rota.sign_on(conn, node=node, slots=2, lease=LEASE)
    rota.sign_off(conn, node="leaver")
    assert rota.sign_on(conn, node="other", slots=2, lease=LEASE) == rota.Duty(elected=True, slots=2)


@pytest.fixture
def second(bell: Bell, conn: psycopg.Connection) -> Bell:
    """A bell on a broker that nodes share, which another one is elected to ring for."""
    rota.sign_on(conn, node="elected", slots=3, lease=LEASE)
    bell._rope.is_shared = True
    return bell


def test_bell_that_is_not_elected_leaves_ringing_and_upkeep_to_the_one_that_is(
    second: Bell, conn: psycopg.Connection
) -> None:
    enqueue(conn)
    assert second.run_once(conn) == Counts()
    assert rung() == []


def test_bell_that_is_not_elected_rings_for_what_was_due_longer_than_a_poll(
    second: Bell, conn: psycopg.Connection
) -> None:
    enqueue(conn)
    conn.execute(f"update outbox.operation set next_attempt_at = next_attempt_at - interval '{POLL + 1} s'")
    assert second.run_once(conn) == Counts(drains=1)


def test_only_the_bell_that_rings_listens(
    second: Bell, conn: psycopg.Connection, clock: HandSetClock
) -> None:
    listening = "select count(*) from pg_listening_channels()"
    second.run_once(conn)
    assert conn.execute(listening).fetchone() == (0,)
    rota.sign_off(conn, node="elected")
    clock.now += LONGEST_ROUND
    second.run_once(conn)
    assert conn.execute(listening).fetchone() == (1,)


def test_bell_that_was_told_not_to_listen_does_not(
    app: Celery[Any], database: Database, conn: psycopg.Connection
) -> None:
    Bell(app, settings_for(database, notify=False), slots=lambda: 3, stop=Cord()).run_once(conn)
    assert conn.execute("select count(*) from pg_listening_channels()").fetchone() == (0,)


# Without a broker


def test_without_its_broker_the_bell_does_the_task_itself_and_lets_the_broker_rest(
    database: Database, conn: psycopg.Connection, clock: HandSetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app("redis://127.0.0.1:1/0")
    done = []

    @app.task(name=DRAIN)
    def drain() -> None:
        done.append(DRAIN)

    @app.task(name=UPKEEP)
    def upkeep() -> None:
        done.append(UPKEEP)

    bell = Bell(app, settings_for(database), slots=lambda: 3, stop=Cord(), clock=clock)
    tried = []
    connect = bell._rope._connect

    def try_to_connect() -> object:
        tried.append(clock.now)
        return connect()

    monkeypatch.setattr(bell._rope, "_connect", try_to_connect)

    enqueue(conn, 25)
    assert bell.run_once(conn) == Counts(here=2)
    assert done == [DRAIN, UPKEEP]
    clock.now += 0.9 * REST
    assert bell.run_once(conn) == Counts(here=1)
    assert len(tried) == 1
    clock.now += 0.2 * REST
    assert bell.run_once(conn).here
    assert len(tried) == 2


# Surprises


def test_bell_that_fails_for_an_unforeseen_reason_takes_its_worker_down(
    app: Celery[Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "should_stop", None)
    monkeypatch.setattr(rota, "due", lambda *_, **__: 1 / 0)
    cord = Cord()
    with pytest.raises(ZeroDivisionError):
        Bell(app, settings_for(database), slots=lambda: 3, stop=cord).run()
    assert cord.is_pulled()
    assert state.should_stop == 1


@pytest.mark.parametrize(
    "trouble",
    [psycopg.OperationalError("the database system is starting up"), StoreRefused("a drain's, done here")],
    ids=["away", "refused"],
)
def test_bell_keeps_trying_whatever_postgres_says_until_the_worker_stops(
    app: Celery[Any], database: Database, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    monkeypatch.setattr(doorbell, "FIRST_RETRY", 0.001)
    cord = Cord()
    bell = Bell(app, settings_for(database), slots=lambda: 3, stop=cord)
    attempts = iter(range(5))

    def connect() -> psycopg.Connection:
        if next(attempts) == 4:
            cord.pull()
        raise trouble

    monkeypatch.setattr(bell, "_connect", connect)
    bell.run()
    assert list(attempts) == []
    assert state.should_stop is None


def test_that_claims_are_shut_is_said_once_a_minute_and_that_they_are_open_again(
    bell: Bell, clock: HandSetClock, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="ringonce")
    enqueue(conn)
    conn.execute("select outbox.doubt_history('an old copy was restored')")
    for _ in range(13):  # a minute of rounds, and one more
        assert bell.run_once(conn).drains == 0
        bell.announce()
        clock.now += LONGEST_ROUND
    assert DRAIN not in rung()
    conn.execute("select outbox.confirm_history('it was not')")
    assert bell.run_once(conn).drains == 1
    said = [record.msg["event"] for record in caplog.records if isinstance(record.msg, dict)]
    assert [event for event in said if event.startswith("claims")] == [
        "claims_shut",
        "claims_shut",
        "claims_open",
    ]
