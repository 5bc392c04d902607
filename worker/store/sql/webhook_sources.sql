-- Which accounts are sent webhooks about which endpoints, and how many operations miss theirs: of all together no
-- more than 10,000 are counted, for a scrape must not take the longer, the longer no receiver runs.
--
-- Run by: a person, and `ringonce metrics` at each scrape. Index: silence_pkey, operation_pkey. Locks: nothing.
select s.account, s.endpoint, s.due_within, s.first_at, s.last_at, coalesce(u.count, 0)::bigint as undelivered_count
from outbox.webhook_source s
left join (
    select t.account, t.endpoint, count(*) as count
    from (select account, endpoint from outbox.undelivered limit 10000) as t
    group by t.account, t.endpoint
) as u
    on u.account = s.account and u.endpoint = s.endpoint
order by s.account, s.endpoint
