"""What pages fetch reads few rows, however many there are and however the filters are set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.integration.outbox.by_hand import HOUR, Outbox, accepted
from tests.postgres import Database, Server
from worker.operation import State
from worker.store import listing, views
from worker.store.listing import Filter, Page
from worker.store.statements import rows

NAMED = b"""
    update outbox.operation set provider_id = 'job-' || id, payload = '{"to": "49301"}'
     where state = 'succeeded' and id %% 1000 = 0"""
ATTEMPTED = b"""
    insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at,
                                recorded, verdict, phase, status)
    select id, 1, gen_random_uuid(), 'node/1', finished_at, finished_at + interval '1 s', true,
           'accepted', 'answered', 200
      from outbox.operation where state = 'succeeded' order by finished_at"""
MANY = 60_000
LOOK = 10_000
FEW = 500
READ = b"""
    select coalesce(seq_tup_read, 0) as scanned, coalesce(idx_tup_fetch, 0) as fetched
      from pg_stat_xact_user_tables where schemaname = 'outbox' and relname = 'operation'"""


@pytest.fixture(scope="module")
def outbox(server: Server, template: Database) -> Iterator[Outbox]:
    """Many that succeeded; under them a few of every other state, and above them some that wait."""
    database = server.create(template=template)
    with psycopg.connect(database.url, autocommit=True) as conn:
        outbox = Outbox(conn)
        outbox.do(b"alter table outbox.operation set (autovacuum_enabled = off)")
        outbox.add_account("default")
        outbox.add_account("rare")
        outbox.fill(20, account="rare", wait=HOUR)
        for id_ in outbox.enqueue_each(10):
            outbox.value(b"select outbox.cancel(%(id)s, 'why')", id=id_)
        outbox.enqueue_each(5)
        outbox.claim(5)
        outbox.fill_finished(MANY)
        outbox.fill(30, wait=HOUR)
        with outbox.as_owner_of_time():
            outbox.do(NAMED)
            outbox.do(ATTEMPTED)
        yield outbox
    server.drop(database)


@pytest.fixture(scope="module", params=["new", "known"])
def conn(request: pytest.FixtureRequest, outbox: Outbox) -> psycopg.Connection:
    """Before ANALYZE, of which the planner knows nothing, and after it."""
    if request.param == "known":
        outbox.do(b"vacuum analyze")
    return outbox.conn


def page(conn: psycopg.Connection, wanted: Filter, *, after: int | None = None, limit: int = 50) -> Page:
    return listing.page(conn, wanted, after=after, limit=limit, look=LOOK)


READS: dict[str, tuple[Callable[[psycopg.Connection], object], int]] = {
    "newest": (lambda conn: page(conn, Filter()), FEW),
    "from the middle": (lambda conn: page(conn, Filter(), after=MANY // 2), FEW),
    "succeeded": (lambda conn: page(conn, Filter(states=(State.SUCCEEDED,))), FEW),
    "cancelled": (lambda conn: page(conn, Filter(states=(State.CANCELLED,))), FEW),
    "cancelled or failed": (lambda conn: page(conn, Filter(states=(State.CANCELLED, State.FAILED))), FEW),
    "unresolved": (lambda conn: page(conn, Filter(states=(State.UNRESOLVED,))), FEW),
    "in flight": (lambda conn: page(conn, Filter(states=(State.IN_FLIGHT,))), FEW),
    "queued": (lambda conn: page(conn, Filter(states=(State.QUEUED,))), FEW),
    "of a rare account": (lambda conn: page(conn, Filter(account="rare")), 2 * LOOK + FEW),
    "of no endpoint": (lambda conn: page(conn, Filter(endpoint="none")), 2 * LOOK + FEW),
    "by number": (lambda conn: listing.named(conn, "77"), FEW),
    "by provider id": (lambda conn: listing.named(conn, "job-2000"), FEW),
    "by what nothing is called": (lambda conn: listing.named(conn, "nothing"), FEW),
    "by phone number": (lambda conn: listing.saying(conn, "49302", look=LOOK), 2 * LOOK + FEW),
    "status": (views.status, FEW),
    "backlog": (lambda conn: views.backlog(conn, limit=10), FEW),
    "expiring": (lambda conn: views.keys_expiring(conn, limit=10), FEW),
    "conflicts": (lambda conn: views.conflicts(conn, limit=10), FEW),
    "one": (lambda conn: [rows(conn, f"dossier_{what}", id=77) for what in ("operation", "actions")], FEW),
}


@pytest.mark.parametrize("name", READS)
def test_it_reads_few_rows_and_never_all(conn: psycopg.Connection, name: str) -> None:
    read, most = READS[name]
    with conn.transaction(force_rollback=True):
        before = conn.execute(READ).fetchone() or (0, 0)
        read(conn)
        after = conn.execute(READ).fetchone() or (0, 0)
    assert after[0] == before[0]
    assert after[1] - before[1] <= most


def test_the_throughput_reads_counts_and_no_attempt(outbox: Outbox) -> None:
    query = READ.replace(b"'operation'", b"'attempt'")
    with outbox.conn.transaction(force_rollback=True):
        outbox.enqueue()
        outbox.tell(outbox.claim_one(), accepted())
        before = outbox.conn.execute(query).fetchone() or (0, 0)
        assert views.throughput(outbox.conn)
        assert outbox.conn.execute(query).fetchone() == before


def whole(conn: psycopg.Connection, wanted: Filter) -> tuple[list[int], list[Page]]:
    """All that are *wanted*, page by page."""
    pages = [page(conn, wanted, limit=20)]
    while (after := pages[-1].after) is not None:
        pages.append(page(conn, wanted, after=after, limit=20))
    return [each.id for page in pages for each in page.operations], pages


@pytest.mark.parametrize(
    ("wanted", "condition"),
    [
        (Filter(states=(State.QUEUED,)), "state = 'queued'"),
        (Filter(account="rare"), "account = 'rare'"),
        (Filter(states=(State.CANCELLED,), account="default"), "state = 'cancelled'"),
        (Filter(states=(State.IN_FLIGHT,)), "state = 'in_flight'"),
        (Filter(states=(State.FAILED,)), "false"),
    ],
    ids=str,
)
def test_page_by_page_everything_is_found_once_however_far_back(
    conn: psycopg.Connection, wanted: Filter, condition: str
) -> None:
    found, pages = whole(conn, wanted)
    there = conn.execute(f"select id from outbox.operation where {condition} order by id desc".encode())
    assert found == [id_ for (id_,) in there]
    assert len(pages) <= MANY // LOOK + 5


def test_a_page_that_ends_for_having_looked_far_says_so(conn: psycopg.Connection) -> None:
    first = page(conn, Filter(account="rare"))
    assert (first.operations, first.looked_at) == ([], LOOK)
    assert first.after is not None


def test_a_phone_number_is_found_page_by_page(conn: psycopg.Connection) -> None:
    first = listing.saying(conn, "49301", look=LOOK)
    found, after = [each.id for each in first.operations], first.after
    while after is not None:
        more = listing.saying(conn, "49301", after=after, look=LOOK)
        found += [each.id for each in more.operations]
        after = more.after
    assert len(found) == MANY // 1000


def test_an_operation_is_found_by_each_of_its_names(conn: psycopg.Connection) -> None:
    row = conn.execute(
        "select id, idempotency_key, provider_id from outbox.operation where provider_id is not null"
    )
    id_, key, provider_id = row.fetchone() or (None, None, None)
    for name in (str(id_), str(key), str(provider_id)):
        assert [each.id for each in listing.named(conn, name)] == [id_]
    assert listing.named(conn, "9" * 40) == []
