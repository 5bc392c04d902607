-- What is on record about one operation, without what it says: payload and answer may hold phone numbers.
--
-- Run by: a person. Index: operation_pkey, operation_reissue_of_key, endpoint_pkey. Locks: nothing.
select o.id, o.account, o.app_id, o.endpoint, o.idempotency_key, o.lane, o.priority, o.state::text as state,
       o.next_attempt_at, o.deadline_at, o.attempt_count, e.max_attempts, o.first_sent_at,
       o.key_window_closes_at, o.settles_at, o.url, o.key_header, o.lease_expires_at, o.leased_by,
       sizes.payload_size, encode(o.payload_sha256, 'hex') as payload_sha256,
       o.response_status, sizes.response_size, o.provider_id, o.last_error,
       o.repeat_count, o.reissue_of, (select r.id from outbox.operation r where r.reissue_of = o.id) as reissued_as,
       o.on_done, o.traceparent, o.enqueued_by, o.created_at, o.finished_at, clock_timestamp() as seen_at
from outbox.operation o
join outbox.endpoint e on e.name = o.endpoint
cross join lateral outbox.sizes(o.id) as sizes
where o.id = %(id)s
