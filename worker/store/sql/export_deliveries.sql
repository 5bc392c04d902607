-- What webhooks told of the operations that became final in a span of time, in the order of those.
--
-- Run by: an administrator, within COPY or row by row. Index: operation_to_scrub, operation_to_purge, delivery_pkey.
-- Locks: nothing.
select d.operation_id, d.provider_id, d.recipient, d.state::text as state, d.status, d.told_at, d.webhook_id,
       d.first_at, d.changed_at, d.evidence, d.agrees
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
join outbox.delivery d on d.operation_id = o.id
order by o.finished_at, o.id, d.provider_id, d.recipient
