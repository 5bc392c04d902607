-- What is due and not claimed, by account and lane; the oldest first.
--
-- Run by: a person. Index: operation_to_claim or operation_next_due, all that is due is read. Locks: nothing.
select account, lane, due_count, oldest_due_at, oldest_age, paused, blocked_until
from outbox.backlog
order by oldest_due_at, account, lane
limit %(limit)s
