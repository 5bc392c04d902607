-- Takes announcements to send; what is not recorded within hold (seconds) is given out again.
--
-- Run by: the herald. Index: announcement_to_send. Locks: those rows; past rows that others hold.
select id, operation_id, task, task_id, idempotency_key, state
from outbox.claim_announcements(%(max_count)s, make_interval(secs => %(hold)s))
