-- Does what retention would do now, for one batch: scrubs what is old enough, deletes what is older, and webhooks.
--
-- Run by: an administrator. Index: operation_to_scrub, operation_to_purge, webhook_pkey. Locks: those operations and
-- webhooks; past operations that others hold. Keeps holds from being placed, and waits for one that is.
select scrubbed_count, purged_count, forgotten_count
from outbox.retire(make_interval(secs => %(scrub_after)s), make_interval(secs => %(purge_after)s), %(max_count)s,
                   %(reason)s)
