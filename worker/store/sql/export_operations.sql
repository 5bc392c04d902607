-- The operations that became final in a span of time, in that order, with all that is on record.
--
-- Run by: an administrator, within COPY or row by row. Index: operation_to_scrub, operation_to_purge. Locks: nothing.
select o.id, o.account, o.app_id, o.endpoint, o.idempotency_key, o.payload::text as payload, o.payload_sha256,
       o.lane, o.priority, o.state::text as state, o.deadline_at, o.attempt_count, o.attempt_number,
       o.first_sent_at, o.key_window_closes_at, o.url, o.key_header, o.response_status,
       o.response_headers::text as response_headers, o.response_body, o.provider_id, o.last_error, o.reissue_of,
       o.resolved_by, o.last_action, o.on_done, o.traceparent, o.enqueued_by::text as enqueued_by, o.created_at,
       o.finished_at
from (
    (select * from outbox.operation
     where finished_at is not null and payload is not null
       and finished_at >= coalesce(%(since)s::timestamptz, '-infinity') and finished_at < %(until)s::timestamptz
     order by finished_at)
    union all
    (select * from outbox.operation
     where finished_at is not null and payload is null
       and finished_at >= coalesce(%(since)s::timestamptz, '-infinity') and finished_at < %(until)s::timestamptz
     order by finished_at)
) as o
order by o.finished_at, o.id
