-- How much retention would scrub now, and delete, and of webhooks, each counted up to one more than look.
--
-- Run by: an administrator. Index: operation_to_scrub, operation_to_purge, webhook_to_forget. Locks: nothing.
-- What is under a legal hold it does not count, nor read as far as retention knows that all is.
with ends as materialized (
    select least(clock_timestamp() - make_interval(secs => %(scrub_after)s), exported.until) as scrub_until,
           least(clock_timestamp() - make_interval(secs => %(purge_after)s), exported.until) as purge_until,
           clock_timestamp() - make_interval(secs => %(scrub_after)s) as webhook_until,
           coalesce(case when held.there then r.scrub_from end, '-infinity') as scrub_from,
           coalesce(case when held.there then r.purge_from end, '-infinity') as purge_from,
           coalesce(case when held.there then r.webhook_from end, '-infinity') as webhook_from
    from outbox.retention r
    cross join lateral (
        select case when r.only_exported then coalesce(r.exported_until, '-infinity') end as until) as exported
    cross join (select exists (select from outbox.legal_hold)) as held (there)
)
select (select count(*) from (
            select from outbox.operation
            where finished_at is not null and payload is not null and finished_at >= (select scrub_from from ends)
              and finished_at < (select scrub_until from ends) and not outbox.is_held(id, account, lane)
            limit %(look)s + 1) as old) as scrubbed_count,
       (select count(*) from (
            select from outbox.operation
            where finished_at is not null and payload is null and finished_at >= (select purge_from from ends)
              and finished_at < (select purge_until from ends) and not outbox.is_held(id, account, lane)
            union all
            select from outbox.operation
            where finished_at is not null and payload is not null and finished_at >= (select scrub_from from ends)
              and finished_at < (select purge_until from ends) and not outbox.is_held(id, account, lane)
            limit %(look)s + 1) as older) as purged_count,
       (select count(*) from (
            select account, received_at, reports from outbox.webhook
            where received_at >= (select webhook_from from ends) and received_at < (select webhook_until from ends)
            order by received_at limit %(look)s + 1) as first
        where not outbox.webhook_is_held(account, reports)) as forgotten_count
