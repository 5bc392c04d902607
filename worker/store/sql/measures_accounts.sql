-- Every account, with what stops it, what is due, and what is in doubt, in numbers.
--
-- Run by: `ringonce metrics`, at each scrape. Index: operation_to_claim and operation_window_to_close, partial
-- ones of what is queued; finished operations are not read. Locks: nothing.
with backlog as (
    select account, sum(due_count)::bigint as due_count, extract(epoch from max(oldest_age))::double precision as oldest_seconds
    from outbox.backlog
    group by account
), doubt as (
    select account, count(*) as count, extract(epoch from min(time_left))::double precision as seconds_left
    from outbox.key_expiring
    group by account
)
select a.name as account, s.paused_count > 0 as paused, s.blocked_count > 0 as blocked, s.in_doubt_count > 0 as breaker_open, s.throttled_count,
       coalesce(b.due_count, 0) as due_count, coalesce(b.oldest_seconds, 0) as oldest_due_seconds,
       coalesce(d.count, 0) as in_doubt_count, d.seconds_left as window_seconds
from outbox.account a
cross join lateral (
    select count(*) filter (where how = 'paused') as paused_count, count(*) filter (where how = 'blocked') as blocked_count,
           count(*) filter (where how = 'in doubt') as in_doubt_count, count(*) filter (where how = 'throttled') as throttled_count
    from outbox.stop
    where account = a.name) as s
left join backlog b on b.account = a.name
left join doubt d on d.account = a.name
order by a.name
