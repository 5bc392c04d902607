-- All operations, with what lists tell of them and what their sources go by: no more than a reader may see.
--
-- Run by: a person, as "operations" beneath list_from_*.sql. Index: the source's. Locks: nothing.
select id, account, app_id, endpoint, lane, priority, state, idempotency_key, attempt_count, next_attempt_at,
       deadline_at, first_sent_at, key_window_closes_at, lease_expires_at, response_status, provider_id, last_error,
       created_at, finished_at
from outbox.operation
