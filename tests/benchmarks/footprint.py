"""Bytes of an operation: in each table, in each index and in the write-ahead log, through the real worker.

Operations are enqueued in chunks, delivered, and both tables vacuumed after each chunk, as autovacuum would
(its turn comes at a fiftieth of dead rows), so that sizes do not depend on when it last came. What is fitted
to the first points is compared with the last one, which no fit has seen. "Packed" is what ``vacuum full``
leaves of it: with the room for updates that ``fillfactor`` asks for, and without what random keys leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from tests.benchmarks.node import warm_node
from tests.benchmarks.ours import furnish
from tests.benchmarks.processes import Workers
from tests.benchmarks.race import wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig, Stage
from tests.benchmarks.sizing import whole_pages
from worker import NewOperation, enqueue_many

POINTS = (10_000, 20_000, 40_000)
"""Fitted to the first two; the third is predicted."""
PAYLOADS = (50, 500, 1_000)
"""Fitted to the first and the last; the one between is predicted. Under 2 KB a row is not compressed."""
FEW = (5_000, 15_000)
"""Operations of each of these payloads: what counts is by how much it grew between."""
CHUNK, BATCH = 5_000, 1_000
PATIENCE = 120.0
RELATIONS = b"""
    select c.relname, pg_relation_size(c.oid)
      from pg_class c left join pg_index i on i.indexrelid = c.oid
     where 'outbox.operation'::regclass in (c.oid, i.indrelid)
        or 'outbox.attempt'::regclass in (c.oid, i.indrelid)
"""
DONE = b"select coalesce(sum(count), 0)::bigint from outbox.finished_count where state = 'succeeded'"
SHORT_LIVES = b"""
    update outbox.endpoint
       set key_safety = '00:00:00', settle = '00:00:00', call_deadline = '00:00:00.1', key_ttl = '00:00:01.1'
"""


@dataclass(frozen=True, slots=True)
class Point:
    """What stood there after so many operations."""

    count: int
    sizes: dict[str, int]
    """Bytes by table and index."""
    wal: int
    """Bytes written until then, since the start."""

    def part(self, name: str) -> int:
        """Bytes of ``operation`` or ``attempt`` (the tables), ``indexes`` (the operation's) or ``wal``."""
        if name == "wal":
            return self.wal
        if name == "indexes":
            return sum(size for key, size in self.sizes.items() if key.startswith("operation_"))
        if name == "attempt":
            return sum(size for key, size in self.sizes.items() if key.startswith("attempt"))
        return self.sizes[name]


PARTS = ("operation", "indexes", "attempt", "wal")


def line_through(left: tuple[float, float], right: tuple[float, float]) -> tuple[float, float]:
    """What it is at 0, and its slope."""
    slope = (right[1] - left[1]) / (right[0] - left[0])
    return left[1] - slope * left[0], slope


def predicted(points: Sequence[Point], name: str) -> float:
    """What the first and second point say about the third."""
    few, some, many = points
    start, slope = line_through((few.count, few.part(name)), (some.count, some.part(name)))
    return start + slope * many.count


def off(what: str, expected: float, found: float, *, within: float, unit: str = "MB") -> Line:
    """How far a prediction was from what was measured, in percent."""
    scale = 2**20 if unit == "MB" else 1
    text = f"{what}: predicted {expected / scale:,.4g}, measured {found / scale:,.4g} {unit}; off by"
    return Line("capacity", text, abs(expected / found - 1) * 100, "%", goal=within, at_most=True)


def run(rig: Rig) -> list[Line]:
    """By count, then by payload, then what retention writes."""
    return [*_by_count(rig), *_by_payload(rig)]


def _by_count(rig: Rig) -> list[Line]:
    with rig.stage() as stage, stage.connect() as conn:
        furnish(stage)
        conn.execute("alter system set checkpoint_timeout = '1h'")
        conn.execute("select pg_reload_conf(), pg_stat_reset_shared('wal')")
        try:
            points, fresh = _points(stage, conn, POINTS, PAYLOADS[0])
        finally:
            conn.execute("alter system reset checkpoint_timeout")
            conn.execute("select pg_reload_conf()")
        written = conn.execute("select wal_records, wal_fpi, wal_bytes from pg_stat_wal").fetchone()
        retired = _retired(conn, points[-1])
    assert written is not None
    last = points[-1]
    records, pages, total = (float(each) / (last.count + CHUNK) for each in written)
    slopes = {
        name: (last.part(name) - points[0].part(name)) / (last.count - points[0].count) for name in PARTS
    }
    return [
        *(
            off(f"{name}, {last.count:,}", predicted(points, name), last.part(name), within=5)
            for name in PARTS
        ),
        *(Line("capacity", f"each operation as it grows: {name}", slopes[name], "bytes") for name in PARTS),
        *(
            Line("capacity", f"each operation as it grows: {name}", size / last.count, "bytes")
            for name, size in sorted(last.sizes.items(), key=lambda each: -each[1])
            if "_" in name and size > last.count
        ),
        Line("capacity", "each operation: records in the log", records),
        Line("capacity", "each operation: whole pages in the log", pages),
        Line("capacity", "each operation: bytes by pg_stat_wal", total, "bytes"),
        off(
            f"wal of each of {CHUNK:,} operations after a checkpoint",
            slopes["wal"] + whole_pages(last.count, CHUNK, _random_entries(last)),
            fresh / CHUNK,
            within=15,
            unit="bytes",
        ),
        *retired,
    ]


def _random_entries(point: Point) -> tuple[float, float]:
    """Bytes of an entry in each index that is entered at random places."""
    names = "operation_key_is_unique", "operation_of_provider"
    key, provider = (point.sizes[name] / point.count for name in names)
    return key, provider


def _retired(conn: psycopg.Connection, last: Point) -> list[Line]:
    """Packed; scrubbed and packed; and what scrubbing and deleting write."""
    full = _packed(conn)
    conn.execute(SHORT_LIVES)
    scrubbed = _logged(conn, b"select outbox.scrub('00:00:01.2', 1000)")
    small = _packed(conn)
    purged = _logged(conn, b"select outbox.purge('00:00:01.2', 1000)")
    count = last.count + CHUNK
    packed = sum(full.part(name) for name in PARTS[:3])
    grown = sum(last.part(name) for name in PARTS[:3]) / last.count * count
    return [
        *(Line("capacity", f"packed: {name}", full.part(name) / count, "bytes") for name in PARTS[:3]),
        *(
            Line("capacity", f"scrubbed, packed: {name}", small.part(name) / count, "bytes")
            for name in PARTS[:3]
        ),
        Line("capacity", "as it grows : packed", grown / packed, "x"),
        Line("capacity", "log of scrubbing one", scrubbed / count, "bytes"),
        Line("capacity", "log of deleting one", purged / count, "bytes"),
    ]


def _by_payload(rig: Rig) -> list[Line]:
    found: dict[str, list[tuple[float, float]]] = {"operation": [], "wal": []}
    for size in PAYLOADS:
        with rig.stage() as stage, stage.connect() as conn:
            furnish(stage)
            (few, more), _ = _points(stage, conn, FEW, size, checkpointed=False)
        for name, each in found.items():
            each.append((size, (more.part(name) - few.part(name)) / (more.count - few.count)))
    lines = []
    for name, (small, middle, large) in found.items():
        start, slope = line_through(small, large)
        expected = start + slope * middle[0]
        lines += [
            # So many rows fit on a page, and that is a whole number: up to a tenth of it stays empty.
            off(f"{name} with {middle[0]:g} bytes of payload", expected, middle[1], within=10, unit="bytes"),
            Line("capacity", f"each byte of payload: {name}", slope, "bytes"),
            Line("capacity", f"without a payload: {name}", start, "bytes"),
        ]
    return lines


def _points(
    stage: Stage, conn: psycopg.Connection, counts: Sequence[int], size: int, *, checkpointed: bool = True
) -> tuple[list[Point], int]:
    """Deliver, and look after each of *counts* operations; what one chunk more writes after a checkpoint."""
    points: list[Point] = []
    with warm_node(stage, conn, concurrency=200) as workers:
        done = 1
        started_at = _position(conn)
        for count in counts:
            while done < count:
                more = min(CHUNK, count - done)
                _deliver(conn, workers, more, done + more, size)
                done += more
            points.append(Point(count, _sizes(conn), _position(conn) - started_at))
        before = _position(conn)
        if checkpointed:
            conn.execute("checkpoint")
            _deliver(conn, workers, CHUNK, done + CHUNK, size)
        workers.stop()
    return points, _position(conn) - before


def _deliver(conn: psycopg.Connection, workers: Workers, more: int, count: int, size: int) -> None:
    """Enqueue and wait until *count* in all have succeeded; vacuum."""
    text = '{"to": "+15550000000", "body": "%s"}' % ("x" * (size - 35))
    for start in range(0, more, BATCH):
        batch = [NewOperation("sms.send", text) for _ in range(min(BATCH, more - start))]
        with conn.transaction():
            enqueue_many(conn, batch)
    wait_for(lambda: conn.execute(DONE).fetchone() == (count,), PATIENCE, f"{count:,} operations", workers)
    conn.execute("vacuum outbox.operation, outbox.attempt")


def _sizes(conn: psycopg.Connection) -> dict[str, int]:
    return dict(conn.execute(RELATIONS).fetchall())


def _packed(conn: psycopg.Connection) -> Point:
    conn.execute("vacuum full outbox.operation, outbox.attempt")
    return Point(0, _sizes(conn), 0)


def _position(conn: psycopg.Connection) -> int:
    """Bytes written to the log since there is one."""
    [(position,)] = conn.execute("select (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchall()
    return int(position)


def _logged(conn: psycopg.Connection, step: bytes) -> int:
    """Repeat *step* until it finds nothing; bytes of the log that it took, a checkpoint before it aside."""
    conn.execute("checkpoint")
    before = _position(conn)
    while conn.execute(step).fetchone() != (0,):
        pass
    return _position(conn) - before
