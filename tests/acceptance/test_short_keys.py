"""Keys that live for seconds, at an API that loses two answers out of three: no key is used beyond its life.

The phone rings, and then the answer is dropped, kept back or cut in the middle. Eight seconds after its first
request a key is forgotten, and the next request with it would ring the phone again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.delivering import enqueue, furnish, node, states
from tests.postgres import Database
from tests.waiting import until
from worker.sandbox import Faults, Sandbox, SandboxSettings

KEY_TTL = 8.0
"""Seconds. A request may be three late (``key_safety``): so long a machine may stand still."""
LOSSES = Faults(
    chances={"drop": 2 / 9, "hang": 2 / 9, "cut": 2 / 9}, latency_seconds=(0, 0.1), hang_seconds=5
)
SHORT_KEYS = """
    update outbox.endpoint
       set key_ttl = make_interval(secs => %s), key_safety = '00:00:03', call_deadline = '00:00:00.5',
           settle = '00:00:00.2', backoff = '00:00:00.3', backoff_cap = '00:00:00.8'
"""


@pytest.fixture
def api(conn: psycopg.Connection) -> Iterator[Sandbox]:
    with Sandbox(SandboxSettings(key_ttl_seconds=KEY_TTL, faults=LOSSES, seed=11)) as api:
        furnish(conn, api)
        conn.execute(SHORT_KEYS, [KEY_TTL])
        # The breaker would take these losses for an outage, and hold back the very retries that test a key.
        conn.execute("update outbox.account set breaker_after = null")
        yield api


def keys(conn: psycopg.Connection, state: str) -> set[str]:
    rows = conn.execute("select idempotency_key from outbox.operation where state::text = %s", [state])
    return {key for (key,) in rows.fetchall()}


def verdicts_of(state: str, conn: psycopg.Connection) -> set[str]:
    """What the attempts of operations in that state came to."""
    query = """
        select distinct a.verdict::text
          from outbox.attempt a join outbox.operation o on o.id = a.operation_id
         where o.state::text = %s"""
    return {verdict for (verdict,) in conn.execute(query, [state]).fetchall()}


def nodes(conn: psycopg.Connection) -> set[str]:
    """Which have told that they are there."""
    return {name for (name,) in conn.execute("select node from outbox.worker").fetchall()}


def sessions_of(url: str, conn: psycopg.Connection) -> int:
    """How many the user of *url* has; one whose process was killed ends with what it was sent last."""
    sessions = "select count(*) from pg_stat_activity where usename = %s"
    [(count,)] = conn.execute(sessions, [conninfo_to_dict(url)["user"]]).fetchall()
    return int(count)


def leased_by(name: str, conn: psycopg.Connection) -> set[str]:
    leased = "select idempotency_key from outbox.operation where split_part(leased_by, '/', 1) = %s"
    return {key for (key,) in conn.execute(leased, [name]).fetchall()}


def all_end(conn: psycopg.Connection) -> None:
    """Wait until nothing is left to be tried."""
    until(lambda: states(conn).keys() <= {"succeeded", "unresolved"}, within=30, told=lambda: states(conn))


def arrivals(api: Sandbox) -> dict[str, list[float]]:
    """When the requests with each key arrived, by the API's clock."""
    assert api.counts().requests_dropped == 0
    arrived = defaultdict(list)
    for request in api.requests:
        arrived[str(request.key)].append(request.arrived_at)
    return arrived


def judge(api: Sandbox, conn: psycopg.Connection, *, perhaps_not_sent: Collection[str] = ()) -> None:
    """No phone rang twice, no forgotten key was used, and each operation ended as the ledger says."""
    assert api.executed_twice() == []
    for key, times in arrivals(api).items():
        assert max(times) - min(times) < KEY_TTL, key
    ledger = {each.key: each.answer.body for each in api.ledger}
    answers: dict[str, bytes] = dict(
        conn.execute(
            "select idempotency_key, response_body from outbox.operation where state = 'succeeded'"
        ).fetchall()
    )
    assert answers == {key: ledger.get(key) for key in answers}
    assert keys(conn, "unresolved") <= {*ledger, *perhaps_not_sent}


def test_operations_whose_answers_stay_lost_until_their_keys_go_end_unresolved_and_none_is_executed_twice(
    api: Sandbox, database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    with node(database.url, "-c", "2", folder=tmp_path):
        enqueue(conn, 200)
        all_end(conn)
        forgotten_at = max(min(times) for times in arrivals(api).values()) + KEY_TTL

        def goes_on_after_that() -> bool:
            enqueue(conn, 200)  # while the API forgets the first ones: whoever sends them now rings twice
            all_end(conn)
            return max(max(times) for times in arrivals(api).values()) > forgotten_at

        until(goes_on_after_that)
        judge(api, conn)
    assert states(conn)["succeeded"] > sum(states(conn).values()) / 2
    assert states(conn)["unresolved"] > 0
    assert verdicts_of("unresolved", conn) <= {
        "ambiguous",
        "not_sent",
    }  # the latter: claimed, and then too late


def test_what_a_killed_worker_leaves_in_doubt_ends_unresolved_while_another_one_goes_on(
    api: Sandbox, database: Database, guarded: str, conn: psycopg.Connection, tmp_path: Path
) -> None:
    """The lease of a killed worker is taken back five seconds after its end, and every key lives for five."""
    settings = {"CONCURRENCY": 20, "LEASE_SLACK_SECONDS": 0.5, "POLL_SECONDS": 0.5}
    with (
        node(guarded, "-c", "1", folder=tmp_path, NODE="killed", **settings) as killed,
        node(database.url, "-c", "1", folder=tmp_path, NODE="other", **settings),
    ):
        until(lambda: nodes(conn) == {"killed", "other"}, within=30, told=lambda: nodes(conn))
        enqueue(conn, 200)
        until(lambda: len(leased_by("killed", conn)) > 10, within=30, told=lambda: states(conn))
        killed.kill()
        until(lambda: sessions_of(guarded, conn) == 0)
        left = leased_by("killed", conn)
        all_end(conn)
        judge(api, conn, perhaps_not_sent=left)
    assert left
    assert left - keys(conn, "unresolved") == set()
    assert states(conn)["succeeded"] > 100
