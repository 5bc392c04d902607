-- Lifts the blocks of an account and endpoint whose time is over.
--
-- Run by: a drain whose probe got through. Index: account_pkey, throttle_pkey. Locks: those rows.
select outbox.unblock(%(account)s, %(endpoint)s)
