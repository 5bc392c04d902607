-- How much retention would scrub now, and delete, each counted up to one more than look.
--
-- Run by: an administrator. Index: operation_to_scrub, operation_to_purge. Locks: nothing.
select (select count(*) from (
            select from outbox.operation
            where finished_at is not null and payload is not null
              and finished_at < (select clock_timestamp()) - make_interval(secs => %(scrub_after)s)
            limit %(look)s + 1) as old) as scrubbed_count,
       (select count(*) from (
            select from outbox.operation
            where finished_at is not null and payload is null
              and finished_at < (select clock_timestamp()) - make_interval(secs => %(purge_after)s)
            union all
            select from outbox.operation
            where finished_at is not null and payload is not null
              and finished_at < (select clock_timestamp()) - make_interval(secs => %(purge_after)s)
            limit %(look)s + 1) as older) as purged_count
