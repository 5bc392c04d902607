"""Lists for people: whatever is asked for is found, page by page, and never by reading everything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import psycopg
import pytest

from tests.integration.outbox.by_hand import HOUR, Outbox
from tests.integration.outbox.test_plans import READ, undone
from tests.integration.sql.plain_sql import ACCOUNTS, age, operation_in, row
from tests.postgres import Connect, Database, Server
from worker.operation import State
from worker.store import listing
from worker.store.listing import Filter, Page, matching, page

BOUND: Final = 3_000
"""How far a page looks in tests of plans, which has to be reached."""


@pytest.fixture
def six(conn: psycopg.Connection) -> dict[str, int]:
    """One operation in each state but in_flight, the oldest first, and what else tells them apart."""
    conn.execute(ACCOUNTS)
    return {
        "queued": operation_in(conn, "queued", lane="night"),
        "succeeded": operation_in(conn, "succeeded", account="other"),
        "failed": operation_in(conn, "failed", endpoint="sms.send"),
        "expired": operation_in(conn, "expired"),
        "cancelled": operation_in(conn, "cancelled"),
        "unresolved": operation_in(conn, "unresolved"),
    }


def found(conn: psycopg.Connection, **conditions: Any) -> list[str]:  # noqa: ANN401 - those of Filter
    return [each.state.value for each in page(conn, Filter(**conditions)).operations]


def test_without_a_condition_all_are_listed_the_newest_first(
    conn: psycopg.Connection, six: dict[str, int]
) -> None:
    listed = page(conn, Filter())
    assert [each.id for each in listed.operations] == sorted(six.values(), reverse=True)
    assert listed.after is None


@pytest.mark.parametrize(
    ("conditions", "states"),
    [
        ({"states": (State.FAILED,)}, ["failed"]),
        ({"states": (State.QUEUED, State.FAILED)}, ["failed", "queued"]),
        ({"states": (State.UNRESOLVED, State.QUEUED)}, ["unresolved", "queued"]),
        ({"account": "other"}, ["succeeded"]),
        ({"endpoint": "sms.send"}, ["failed"]),
        ({"lane": "night"}, ["queued"]),
        ({"provider_id": "v-1"}, ["succeeded"]),
        ({"provider_id": "v-2"}, []),
        ({"in_doubt": True}, ["unresolved"]),
        ({"in_doubt": True, "states": (State.QUEUED,)}, []),
        ({"in_doubt": True, "states": (State.FAILED,)}, []),
        ({"error": "RESET"}, ["unresolved"]),
        ({"error": "%"}, []),
        ({"account": "other", "states": (State.FAILED,)}, []),
    ],
)
def test_each_condition_chooses_and_all_must_hold(
    conn: psycopg.Connection, six: dict[str, int], conditions: dict[str, Any], states: list[str]
) -> None:
    assert six
    assert found(conn, **conditions) == states


def test_a_key_is_found_among_all(conn: psycopg.Connection, six: dict[str, int]) -> None:
    key = row(conn, "select idempotency_key from outbox.operation where id = %s", [six["expired"]])
    assert found(conn, key=key["idempotency_key"]) == ["expired"]
    assert found(conn, key=str(uuid4())) == []


def test_times_are_taken_to_the_moment_from_the_first_to_before_the_last(
    conn: psycopg.Connection, six: dict[str, int]
) -> None:
    for place, state in enumerate(reversed(six)):
        age(conn, six[state], HOUR * place)
    times = row(conn, "select created_at, finished_at from outbox.operation where id = %s", [six["expired"]])
    created, finished = times["created_at"], times["finished_at"]
    instant = timedelta(microseconds=1)
    assert found(conn, created_since=created) == ["unresolved", "cancelled", "expired"]
    assert found(conn, created_until=created) == ["failed", "succeeded", "queued"]
    assert found(conn, created_since=created, created_until=created + instant) == ["expired"]
    assert found(conn, finished_since=finished) == ["cancelled", "expired"]
    assert found(conn, finished_until=finished) == ["failed", "succeeded"]
    assert found(conn, finished_since=finished, finished_until=finished + instant) == ["expired"]
    assert found(conn, created_since=datetime(2096, 1, 1, tzinfo=UTC)) == []
    assert found(conn, created_until=datetime(2016, 1, 1, tzinfo=UTC)) == []


def test_pages_go_on_where_the_last_one_ended_and_miss_nothing(
    conn: psycopg.Connection, six: dict[str, int]
) -> None:
    seen: list[int] = []
    after: int | None = None
    for _ in range(4):
        part = page(conn, Filter(), after=after, limit=2)
        seen += [each.id for each in part.operations]
        after = part.after
        if after is None:
            break
    assert seen == sorted(six.values(), reverse=True)


@pytest.mark.parametrize("look", [1, 2, 5, 6, 7])
@pytest.mark.parametrize(
    "wanted",
    [
        Filter(account="other"),
        Filter(states=(State.QUEUED, State.UNRESOLVED)),
        Filter(states=(State.EXPIRED, State.UNRESOLVED, State.FAILED)),
        Filter(finished_since=datetime(2026, 1, 1, tzinfo=UTC)),
        Filter(created_until=datetime(2096, 1, 1, tzinfo=UTC), endpoint="sms.send"),
    ],
    ids=["walk", "live", "rare", "finished", "created"],
)
def test_however_little_is_looked_at_at_a_time_everything_is_found_in_the_end(
    conn: psycopg.Connection, six: dict[str, int], monkeypatch: pytest.MonkeyPatch, wanted: Filter, look: int
) -> None:
    everything = list(matching(conn, wanted))
    assert 0 < len(everything) < len(six)
    monkeypatch.setattr(listing, "BATCH", 1)
    assert list(matching(conn, wanted, look=look)) == everything


def test_a_page_that_found_nothing_yet_says_where_to_go_on(
    conn: psycopg.Connection, six: dict[str, int]
) -> None:
    first = page(conn, Filter(lane="night"), look=3)
    assert (first.operations, first.after, first.looked_at) == ([], six["expired"], 3)
    second = page(conn, Filter(lane="night"), after=first.after, look=3)
    assert [each.id for each in second.operations] == [six["queued"]]


def test_among_states_that_are_rare_no_others_are_looked_at(
    conn: psycopg.Connection, six: dict[str, int]
) -> None:
    rare = Filter(states=(State.FAILED, State.UNRESOLVED), lane="nowhere")
    assert page(conn, rare, look=1).after == six["unresolved"]
    assert page(conn, rare, look=1, after=six["unresolved"]).after == six["failed"]
    assert page(conn, rare, look=3) == Page([])


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(key="none"),
        Filter(provider_id="none"),
        Filter(in_doubt=True),
        Filter(states=(State.QUEUED,)),
        Filter(states=(State.FAILED, State.UNRESOLVED)),
        Filter(created_since=datetime(2026, 1, 1, tzinfo=UTC), error="none"),
    ],
    ids=str,
)
def test_a_list_needs_no_more_than_the_role_outbox_reader(
    conn: psycopg.Connection, connect: Connect, six: dict[str, int], wanted: Filter
) -> None:
    assert six
    assert page(connect(options="-c role=outbox_reader"), wanted) == page(conn, wanted)


def test_what_became_final_when_and_what_payloads_say_is_for_the_role_outbox_admin(
    connect: Connect, six: dict[str, int]
) -> None:
    finished = Filter(finished_since=datetime(2026, 1, 1, tzinfo=UTC))
    admin, reader = (connect(options=f"-c role=outbox_{role}") for role in ("admin", "reader"))
    assert len(page(admin, finished).operations) == len(six) - 2
    assert listing.saying(admin, "4711").operations == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        page(reader, finished)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        listing.saying(reader, "4711")


def test_a_list_leaves_the_session_as_it_was(conn: psycopg.Connection) -> None:
    page(conn, Filter())
    assert row(conn, "show enable_seqscan")["enable_seqscan"] == "on"


# Plans.

QUESTIONS: Final = {
    "all": Filter(),
    "a key": Filter(key="0b9c8d3e-7f64-4d0e-9a52-3c1f0de7a111"),
    "a provider's id": Filter(provider_id="v-1"),
    "queued": Filter(states=(State.QUEUED,)),
    "queued or unresolved": Filter(states=(State.QUEUED, State.UNRESOLVED)),
    "in doubt": Filter(in_doubt=True),
    "a lane that is not there": Filter(lane="nowhere"),
    "an account and an error": Filter(account="default", error="timeout"),
    "failed": Filter(states=(State.FAILED,)),
    "lately finished": Filter(finished_since=datetime.now(UTC) - HOUR),
    "finished long ago": Filter(finished_until=datetime.now(UTC) - timedelta(days=60)),
    "lately enqueued": Filter(created_since=datetime.now(UTC) - HOUR, lane="nowhere"),
    "enqueued long ago": Filter(created_until=datetime.now(UTC) - timedelta(days=10)),
}


def few_wait(outbox: Outbox) -> None:
    """Few wait behind many that are finished."""
    outbox.fill(100, lane="lane ", lane_count=50)
    outbox.fill_finished(40_000)


def most_wait(outbox: Outbox) -> None:
    """As many wait as are finished."""
    outbox.fill_finished(40_000)
    outbox.fill(40_000, lane="lane ", lane_count=50)


def most_waited(outbox: Outbox) -> None:
    """Few wait behind many that are finished, and the planner believes that all still wait."""
    outbox.fill(40_000, lane="lane ", lane_count=50)
    outbox.do(b"analyze")
    with outbox.as_owner_of_time():
        outbox.do(
            b"update outbox.operation set state = 'cancelled', next_attempt_at = null,"
            b" finished_at = clock_timestamp() - interval '2 h' where id > 100"
        )


@pytest.fixture(scope="module", params=[few_wait, most_wait, most_waited], ids=lambda world: world.__name__)
def crowded(request: pytest.FixtureRequest, server: Server, template: Database) -> Iterator[Outbox]:
    """An outbox that the planner has not looked at since it changed."""
    database = server.create(template=template)
    with psycopg.connect(database.url, autocommit=True) as conn:
        outbox = Outbox(conn)
        outbox.do(b"alter table outbox.operation set (autovacuum_enabled = off)")
        outbox.add_account("default")
        request.param(outbox)
        yield outbox
    server.drop(database)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("table", ["new", "known"])
def test_a_page_reads_no_more_than_its_bound_and_never_the_table(
    crowded: Outbox, question: str, table: str
) -> None:
    if table == "known":
        crowded.do(b"analyze")
    with undone(crowded):
        [before] = crowded.rows(READ)
        page(crowded.conn, QUESTIONS[question], look=BOUND)
        [after] = crowded.rows(READ)
    assert after["scanned"] == before["scanned"]
    assert after["fetched"] - before["fetched"] <= 4 * BOUND  # sized, read, and sized again where it ended


def test_a_page_that_reads_the_table_would_be_noticed(crowded: Outbox) -> None:
    with undone(crowded):
        [before] = crowded.rows(READ)
        crowded.rows(b"select id from outbox.operation where lane = 'nowhere'")
        [after] = crowded.rows(READ)
    assert after["scanned"] - before["scanned"] >= 40_000
