-- Every account: its limits, and what stops it.
--
-- Run by: a person. Index: account_pkey. Locks: nothing.
select name, app_id, base_url, max_in_flight, rate_per_second, burst, allow_guessable_keys,
       paused_at, paused_reason, blocked_until, blocked_reason, created_at
from outbox.account
where %(name)s::text is null or name = %(name)s
order by name
