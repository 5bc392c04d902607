-- Stops an account: nothing of it is claimed until a person resumes it.
--
-- Run by: an administrator. Index: account_pkey. Locks: the account.
select outbox.pause(%(account)s, %(reason)s)
