"""Operations that became final long ago, and the passes of retention over them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from tests.integration.outbox.by_hand import HOUR, Outbox, accepted
from worker.operation import Reply

DAY: Final = 24 * HOUR
MONTH: Final = 30 * DAY

OLD: Final = b"""
    insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, payload_sha256, lane,
                                  state, next_attempt_at, created_at, finished_at, first_sent_at,
                                  key_window_closes_at, response_status, attempt_count, attempt_number, url,
                                  key_header)
    select %(account)s, 'app', 'sms.send', gen_random_uuid(), case when not %(scrubbed)s then '{}'::json end,
           sha256('{}'), %(lane)s, 'succeeded', null, at, at, at, at + interval '23:50:00', 200, 1, 1,
           'http://127.0.0.1/', 'Idempotency-Key'
      from generate_series(1, %(count)s) as n
     cross join lateral (select clock_timestamp() - %(age)s::interval + n * interval '1 ms' as at) as times"""


def finished(outbox: Outbox, age: timedelta, *, reply: Reply | None = None, **options: Any) -> int:  # noqa: ANN401  those of enqueue
    """One that was sent, and has been final for *age*."""
    id_ = outbox.enqueue(**options)
    outbox.tell(outbox.claim_one(), accepted() if reply is None else reply)
    outbox.go_on(age)
    return id_


def fill_old(
    outbox: Outbox,
    count: int,
    age: timedelta,
    *,
    account: str = "default",
    lane: str = "",
    scrubbed: bool = False,
) -> None:
    """Many that have been final for *age*, a millisecond apart, past the triggers."""
    values = {"count": count, "age": f"{age.total_seconds()} s", "account": account, "lane": lane}
    with outbox.as_owner_of_time():
        outbox.do(OLD, scrubbed=scrubbed, **values)


def scrub(outbox: Outbox, *, limit: int = 500, patience: str = "1 min") -> int:
    return int(
        outbox.value(
            b"select outbox.scrub('720:00:00', %(limit)s, %(for)s)", limit=limit, **{"for": patience}
        )
    )


def purge(outbox: Outbox, *, limit: int = 500, patience: str = "1 min") -> int:
    return int(
        outbox.value(
            b"select outbox.purge('1440:00:00', %(limit)s, %(for)s)", limit=limit, **{"for": patience}
        )
    )


def left(outbox: Outbox) -> dict[int, bool]:
    """What is there, and whether it still has its payload."""
    found = outbox.rows(b"select id, payload is not null as whole from outbox.operation order by id")
    return {each["id"]: each["whole"] for each in found}


def retire_all(outbox: Outbox) -> dict[int, bool]:
    """Make passes until nothing goes any more; what is left."""
    for _ in range(100):
        if scrub(outbox) + purge(outbox) == 0:
            return left(outbox)
    raise AssertionError("retention found something a hundred times")
