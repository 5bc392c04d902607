-- How much retention would scrub now, and delete, each counted up to one more than look.
--
-- Run by: an administrator. Index: operation_to_scrub, operation_to_purge. Locks: nothing. What is under a legal hold
-- it reads and does not count.
with ends as materialized (
    select least(clock_timestamp() - make_interval(secs => %(scrub_after)s), exported.until) as scrub_until,
           least(clock_timestamp() - make_interval(secs => %(purge_after)s), exported.until) as purge_until
    from outbox.retention r
    cross join lateral (select case when r.only_exported then coalesce(r.exported_until, '-infinity') end as until) as exported
)
select (select count(*) from (
            select from outbox.operation
            where finished_at is not null and payload is not null
              and finished_at < (select scrub_until from ends) and not outbox.is_held(id, account, lane)
            limit %(look)s + 1) as old) as scrubbed_count,
       (select count(*) from (
            select from outbox.operation
            where finished_at is not null and payload is null
              and finished_at < (select purge_until from ends) and not outbox.is_held(id, account, lane)
            union all
            select from outbox.operation
            where finished_at is not null and payload is not null
              and finished_at < (select purge_until from ends) and not outbox.is_held(id, account, lane)
            limit %(look)s + 1) as older) as purged_count
