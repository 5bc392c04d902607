-- Leases up to max_count due operations to this worker, from behind the lane it claimed from last.
--
-- Run by: a drain with free slots. Index: operation_to_claim. Locks: the meters of limited accounts, in the
-- order of their names, and the rows it leases; past rows that others hold (skip locked).
select id, account, app_id, endpoint, endpoint_revision, lane, url, key_header, idempotency_key, payload,
       lease_token, number, send_within, call_deadline, claimed_at, attempt_count, doubt_since, key_window_closes_at,
       deadline_at, last_answer_sha256, repeat_count, other_passed, probe, traceparent
from outbox.claim(%(max_count)s, %(hold)s, %(node)s, %(after_account)s, %(after_endpoint)s, %(after_lane)s)
