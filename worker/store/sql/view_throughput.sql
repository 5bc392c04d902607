-- The attempts of the last hour, by minute and verdict; the newest minute first.
--
-- Run by: a person. Index: none, the counts of the hour are read, which upkeep folds. Locks: nothing.
select minute, verdict::text as verdict, count, p50, p95, p99
from outbox.throughput as seen
order by minute desc, seen.verdict
