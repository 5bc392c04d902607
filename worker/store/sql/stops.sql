-- What stops accounts, and their use of endpoints; of each account the strongest first.
--
-- Run by: a person. Index: none, a row for each account and each throttle. Locks: nothing.
select account, how, endpoint, since, until, reason
from outbox.stop
order by account, how <> 'paused', how, endpoint
