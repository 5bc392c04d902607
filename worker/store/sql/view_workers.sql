-- The workers that were heard of within the last hour, and whether each still is.
--
-- Run by: a person. Index: none, a row for each worker. Locks: nothing.
select node, pid, version, slots, on_duty_since, seen_at, lease_expires_at > clock_timestamp() as alive
from outbox.worker
order by node, pid
