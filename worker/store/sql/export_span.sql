-- The first operation that became final in a span of time, and where a part of size operations ends (null: with it).
--
-- Run by: an administrator. Index: operation_to_scrub, operation_to_purge. Locks: nothing.
with near as (
    (select finished_at from outbox.operation
     where finished_at is not null and payload is not null
       and finished_at >= coalesce(%(since)s::timestamptz, '-infinity') and finished_at < %(until)s::timestamptz
     order by finished_at limit %(size)s + 1)
    union all
    (select finished_at from outbox.operation
     where finished_at is not null and payload is null
       and finished_at >= coalesce(%(since)s::timestamptz, '-infinity') and finished_at < %(until)s::timestamptz
     order by finished_at limit %(size)s + 1)
)
select min(finished_at) as first_at,
       greatest((select finished_at from near order by finished_at offset %(size)s limit 1),
                case when count(*) > %(size)s then min(finished_at) + interval '1 microsecond' end) as end_at
from near
