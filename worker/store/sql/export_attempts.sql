-- The attempts of the operations that became final in a span of time, in the order of those.
--
-- Run by: an administrator, within COPY or row by row. Index: operation_to_scrub, operation_to_purge, attempt_pkey.
-- Locks: nothing.
select a.operation_id, a.number, a.leased_by, a.started_at, a.finished_at, a.recorded, a.late,
       a.verdict::text as verdict, a.phase::text as phase, a.status, a.error, a.provider_id, a.body_sha256,
       a.late_body, a.disproved, a.doubt
from (
    (select id, finished_at from outbox.operation
     where finished_at is not null and payload is not null
       and finished_at >= coalesce(%(since)s::timestamptz, '-infinity') and finished_at < %(until)s::timestamptz
     order by finished_at)
    union all
    (select id, finished_at from outbox.operation
     where finished_at is not null and payload is null
       and finished_at >= coalesce(%(since)s::timestamptz, '-infinity') and finished_at < %(until)s::timestamptz
     order by finished_at)
) as o
join outbox.attempt a on a.operation_id = o.id
order by o.finished_at, o.id, a.number
