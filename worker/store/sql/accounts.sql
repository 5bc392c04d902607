-- Every account: its limits, and what stops it.
--
-- Run by: a person. Index: account_pkey. Locks: nothing.
select a.name, a.app_id, a.base_url, a.max_in_flight, a.rate_per_second, a.burst, a.breaker_after,
       a.allow_guessable_keys, a.paused_at, a.paused_reason, a.blocked_until, a.blocked_reason, m.probe_at,
       a.created_at
from outbox.account a
left join outbox.account_meter m on m.account = a.name
where %(name)s::text is null or a.name = %(name)s
order by a.name
