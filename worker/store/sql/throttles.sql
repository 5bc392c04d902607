-- Endpoints that are throttled, account by account.
--
-- Run by: a person. Index: throttle_pkey. Locks: nothing.
select account, endpoint, blocked_until, blocked_reason
from outbox.throttle
order by account, endpoint
