-- Every account, its limits, and how near its breaker is.
--
-- Run by: a person. Index: account_pkey. Locks: nothing.
select a.name, a.app_id, a.base_url, a.max_in_flight, a.rate_per_second, a.burst, a.breaker_after,
       a.allow_guessable_keys, coalesce(m.doubt_run, 0) as doubt_run, a.created_at
from outbox.account a
left join outbox.account_meter m on m.account = a.name
where %(name)s::text is null or a.name = %(name)s
order by a.name
