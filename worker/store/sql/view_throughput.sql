-- The attempts of the last hour, by minute and verdict; the newest minute first.
--
-- Run by: a person. Index: attempt_of_last_hour, all attempts of the hour are read. Locks: nothing.
select minute, verdict::text as verdict, count, p50, p95, p99
from outbox.throughput as seen
order by minute desc, seen.verdict
