"""Operations of every kind that is exported, and what the files of an export hold."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from tests.integration.outbox.by_hand import MINUTE, RESCUED_AFTER, Outbox, accepted
from tests.integration.retention.passing import finished
from tests.unit.attempts import answer
from worker.archive import Order
from worker.store.exports import COLUMNS, Span, Table

csv.field_size_limit(1 << 30)

TABLES: Final[dict[Table, tuple[str, str, str]]] = {
    "operations": ("operation", "id", ""),
    "attempts": ("attempt", "operation_id", ", t.number"),
    "deliveries": ("delivery", "operation_id", ", t.provider_id, t.recipient"),
}
"""Of each: the table, its number of the operation, and by what it is sorted behind that."""
DELIVERIES: Final = b"""
    insert into outbox.delivery (operation_id, provider_id, recipient, state, status, told_at, webhook_id,
                                 evidence)
    values (%(id)s, 'job-1', '+919876543211', 'delivered', 'DLVRD', clock_timestamp(), 7, true),
           (%(id)s, 'job-1', '+919876543210', 'failed', '"no", it said', null, 8, false)"""


def order(folder: Path, outbox: Outbox, **changes: Any) -> Order:  # noqa: ANN401  those of Order
    """All that is final by now, in parts of two."""
    now: datetime = changes.pop("until", None) or outbox.value(b"select clock_timestamp()")
    usual: dict[str, Any] = {"whole": Span(changes.pop("since", None), now), "part_size": 2}
    return Order(folder=folder, **(usual | changes))


def some(outbox: Outbox) -> list[int]:
    """One of each kind that is final, with what CSV and Parquet may stumble over; and three that are not."""
    ids = [
        finished(outbox, MINUTE, lane='"a,\\b', account="partner"),
        finished(outbox, MINUTE, reply=answer(400)),
    ]
    cancelled, late = outbox.enqueue_each(2)
    outbox.do(b"select outbox.cancel(%(id)s, 'x')", id=cancelled)
    lost = outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    outbox.rescue()
    outbox.go_on(MINUTE)
    outbox.tell(outbox.claim_one(), accepted())
    outbox.tell(lost, accepted("job-2"))
    outbox.go_on(MINUTE)
    [waiting, *_] = outbox.enqueue_each(3)
    for id_ in (ids[0], late, waiting):
        outbox.do(DELIVERIES, id=id_)
    return [*ids, cancelled, late]


def read_csv(folder: Path, table: str) -> list[dict[str, str]]:
    return [row for path in sorted(folder.glob(f"{table}-*.csv")) for row in read_file(path)]


def read_file(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_parquet(folder: Path, table: str) -> list[dict[str, Any]]:
    return [
        row for path in sorted(folder.glob(f"{table}-*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def on_record(outbox: Outbox, name: Table) -> list[dict[str, Any]]:
    """What an export of all is to hold, as Postgres tells it."""
    table, key, sort = TABLES[name]
    casts = {"payload", "response_headers", "state", "verdict", "phase", "enqueued_by"}
    told = ", ".join(f"t.{column}::text" if column in casts else f"t.{column}" for column in COLUMNS[name])
    return outbox.rows(
        f"select {told} from outbox.{table} t join outbox.operation o on o.id = t.{key}"
        f" where o.finished_at is not null order by o.finished_at, o.id{sort}".encode()
    )


def in_csv(value: object) -> str:
    """As Postgres writes it into CSV; what is missing and what is empty look alike to Python's reader."""
    match value:
        case None:
            return ""
        case bool():
            return "t" if value else "f"
        case bytes():
            return f"\\x{value.hex()}"
        case datetime():
            told = value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0").rstrip(".")
            return f"{told}+00"
    return str(value)
