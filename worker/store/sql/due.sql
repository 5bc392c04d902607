-- How many operations may be claimed now, up to max_count, and in how many seconds the next one may be.
--
-- Run by: a drain that found nothing more, and the bell. Index: operation_next_due, two probes for each account
-- and endpoint; operation_in_flight. Locks: nothing.
select due_count, next_in from outbox.due(%(max_count)s)
