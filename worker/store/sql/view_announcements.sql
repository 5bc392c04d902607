-- What apps are still to be told of operations that became final; the oldest first.
--
-- Run by: a person. Index: announcement_pkey. Locks: nothing.
select id, operation_id, task, state::text as state, task_id::text as task_id, idempotency_key, created_at,
       next_attempt_at, attempt_count
from outbox.announcement
order by id
limit %(limit)s
