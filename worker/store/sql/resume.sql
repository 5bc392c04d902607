-- Lifts the pause of an account, and whatever blocks workers have set on it.
--
-- Run by: an administrator. Index: account_pkey, throttle_pkey, suspicion_pkey. Locks: those rows.
select outbox.resume(%(account)s, %(reason)s)
