"""Accounts spread over two outboxes, a fleet for each, and one that moves while everything goes on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, cast
from uuid import uuid4

import psycopg
import pytest

from tests.acceptance.delivering import NO_CUTS, SHORT_WAITS, node, states
from tests.documents import CAPACITY, adapted, snippet
from tests.integration.sharding.moving import APP_ID, moved, two_outboxes
from tests.postgres import Database, Server
from tests.waiting import until
from worker import UnknownAccount, enqueue
from worker.sandbox import Concurrent, Credential, Faults, Sandbox, SandboxSettings

ACCOUNTS: Final = ("ash", "birch", "cedar", "elm", "fir", "oak")
BEFORE, AFTER = 40, 30
"""Operations of the one that moves, executed before it does, and enqueued afterwards."""


class Home(Protocol):
    def __call__(self, app_id: str, outboxes: Collection[str], moved: Mapping[str, str]) -> str:
        """Where an APP ID lives."""


def home_of_the_document() -> Home:
    names: dict[str, Any] = {}
    exec(snippet(CAPACITY, "home"), names)  # noqa: S102
    return cast(Home, names["home"])


home: Final = home_of_the_document()


class Producer:
    """An app that enqueues for every account, where each lives; under one key however often it has to try."""

    def __init__(self, outboxes: Mapping[str, Database]) -> None:
        self.moved: dict[str, str] = {}
        self.keys: dict[str, list[str]] = {account: [] for account in ACCOUNTS}
        """Of what was committed."""
        self.refused = 0
        self._urls = {name: database.url for name, database in outboxes.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        with ExitStack() as leave:
            conns = {
                name: leave.enter_context(psycopg.connect(url, autocommit=True))
                for name, url in self._urls.items()
            }
            while not self._stop.wait(0.01):
                for account in ACCOUNTS:
                    self._enqueue(conns, account, str(uuid4()))

    def _enqueue(self, conns: Mapping[str, psycopg.Connection], account: str, key: str) -> None:
        while not self._stop.is_set():
            conn = conns[home(account, conns, self.moved)]
            try:
                enqueue(conn, "sms.send", {"to": key}, account=account, idempotency_key=key)
            except (UnknownAccount, psycopg.errors.ForeignKeyViolation):
                self.refused += 1
                self._stop.wait(0.05)
            else:
                self.keys[account].append(key)
                return


@contextmanager
def fleet(name: str, database: Database, folder: Path) -> Iterator[None]:
    """One node on an outbox, with the keys of all accounts."""
    keys = {f"APP_KEY_{account.upper()}": account for account in ACCOUNTS}
    settings = {"POLL_SECONDS": 0.5, "LEASE_SLACK_SECONDS": 2, "CONCURRENCY": 20, "NODE": name}
    with node(database.url, "-c", "1", folder=folder, **settings, **keys):
        yield


def furnish(outboxes: Mapping[str, Database], api: Sandbox) -> None:
    """Each account where it lives, and waits that are short."""
    for name, database in outboxes.items():
        with psycopg.connect(database.url, autocommit=True) as conn:
            conn.execute(SHORT_WAITS)
            conn.execute(NO_CUTS)  # what is cut and sent again while the API is slow is executed twice
            for account in ACCOUNTS:
                if home(account, outboxes, {}) == name:
                    values = [account, account, api.url]
                    conn.execute(
                        "insert into outbox.account (name, app_id, base_url) values (%s, %s, %s)", values
                    )


def of(account: str, text: str) -> bytes:
    """A snippet of CAPACITY.md, about another APP ID."""
    return adapted(snippet(CAPACITY, text), {APP_ID: account}).encode()


def test_an_app_id_lives_in_one_outbox_and_a_further_outbox_draws_only_its_own_share() -> None:
    few, more = ["db-1", "db-2", "db-3"], ["db-1", "db-2", "db-3", "db-4"]
    app_ids = [f"app-{number}" for number in range(4_000)]
    before, after = ({each: home(each, names, {}) for each in app_ids} for names in (few, more))
    assert {home(each, list(reversed(few)), {}) == before[each] for each in app_ids} == {True}
    drawn = [each for each in app_ids if before[each] != after[each]]
    assert {after[each] for each in drawn} == {"db-4"}
    assert 900 < len(drawn) < 1_100
    assert all(1_200 < count < 1_470 for count in Counter(before.values()).values())
    assert home("app-1", few, {"app-1": "db-9"}) == "db-9"


@pytest.mark.timeout(200)
def test_an_account_moves_to_another_outbox_under_load_and_nothing_is_done_twice_or_lost(
    server: Server, template: Database, tmp_path: Path
) -> None:
    faults = Faults(chances={"drop": 0.15, "500_after": 0.05}, latency_seconds=(0, 0.05))
    credentials = {account: Credential(account) for account in ACCOUNTS}
    # Two sends of one key at once would be two executions: a key that lives in two places shows.
    settings = SandboxSettings(credentials=credentials, faults=faults, seed=7, concurrent=Concurrent.EXECUTE)
    with ExitStack() as stage:
        here, there = stage.enter_context(two_outboxes(server, template))
        outboxes = {"db-1": here, "db-2": there}
        api = stage.enter_context(Sandbox(settings))
        furnish(outboxes, api)
        for name, database in outboxes.items():
            stage.enter_context(fleet(name, database, tmp_path))
        conns = {
            name: stage.enter_context(psycopg.connect(each.url, autocommit=True))
            for name, each in outboxes.items()
        }
        producer = Producer(outboxes)
        stage.callback(producer.stop)
        producer.start()

        mover = next(account for account in ACCOUNTS if home(account, outboxes, {}) == "db-1")
        until(lambda: len(api.executions(app_id=mover)) >= BEFORE, within=60)
        pause_in_doubt(conns["db-1"], mover)
        until(lambda: conns["db-1"].execute(of(mover, "drained")).fetchall() == [], within=30)
        assert moved(here, there, mover) == "moved"
        until(lambda: producer.refused > 0, within=30)
        producer.moved[mover] = "db-2"
        conns["db-2"].execute(of(mover, "open"))
        done = len(producer.keys[mover])
        until(lambda: len(producer.keys[mover]) >= done + AFTER, within=60)
        producer.stop()

        for conn in conns.values():
            until(lambda conn=conn: set(states(conn)) == {"succeeded"}, within=60)  # type: ignore[misc]
        judge(api, conns, producer, mover)


def pause_in_doubt(conn: psycopg.Connection, mover: str) -> None:
    """Pause it while something of it waits for another try."""

    def is_in_doubt() -> bool:
        with conn.transaction() as paused:
            conn.execute(of(mover, "pause"))
            found = conn.execute(IN_DOUBT, [mover]).fetchone()
            if found is None:
                raise psycopg.Rollback(paused)
        return found is not None

    until(is_in_doubt, within=60)


def judge(api: Sandbox, conns: Mapping[str, psycopg.Connection], producer: Producer, mover: str) -> None:
    """By the API's ledger, what the app remembers, and both outboxes."""
    assert api.executed_twice() == []
    committed = Counter((account, key) for account, keys in producer.keys.items() for key in keys)
    assert Counter((each.app_id, each.key) for each in api.ledger) == committed

    rows = {name: conn.execute(ROWS).fetchall() for name, conn in conns.items()}
    assert Counter(key for found in rows.values() for *key_, _ in found for key in [tuple(key_)]) == committed
    answers = {(app_id, key): body for found in rows.values() for app_id, key, body in found}
    assert answers == {(each.app_id, each.key): each.answer.body for each in api.ledger}
    for name, found in rows.items():
        assert {home(app_id, conns, producer.moved) for app_id, *_ in found} == {name}

    sent = Counter((each.app_id, each.key) for each in api.requests)
    on_record: Counter[tuple[str, str]] = Counter()
    for conn in conns.values():
        on_record.update({(app_id, key): count for app_id, key, count in conn.execute(SENDS).fetchall()})
    assert on_record == sent, "every request is an attempt on record, in one place"

    crossed = conns["db-2"].execute(CROSSED, [mover]).fetchall()
    assert {in_order for (in_order,) in crossed} == {True}, "tried here, moved in doubt, and retried there"


IN_DOUBT: Final = b"""
    select from outbox.operation where app_id = %s and state = 'queued' and first_sent_at is not null limit 1
"""
ROWS: Final = b"select app_id, idempotency_key, response_body from outbox.operation"
SENDS: Final = b"""
    select o.app_id, o.idempotency_key, count(*)
      from outbox.operation o join outbox.attempt a on a.operation_id = o.id
     where a.phase is distinct from 'connecting' group by 1, 2
"""
CROSSED: Final = b"""
    select max(a.finished_at) filter (where a.leased_by like 'db-1/%%')
           < min(a.started_at) filter (where a.leased_by like 'db-2/%%')
      from outbox.attempt a join outbox.operation o on o.id = a.operation_id and o.app_id = %s
     group by operation_id
    having bool_or(a.leased_by like 'db-1/%%') and bool_or(a.leased_by like 'db-2/%%')
"""
