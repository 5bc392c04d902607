-- Does what retention would do now, for one batch: scrubs what is old enough, deletes what is older still.
--
-- Run by: an administrator. Index: operation_to_scrub, operation_to_purge. Locks: those operations; past rows that
-- others hold.
select scrubbed_count, purged_count
from outbox.retire(make_interval(secs => %(scrub_after)s), make_interval(secs => %(purge_after)s), %(max_count)s,
                   %(reason)s)
