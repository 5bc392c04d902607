-- Notes a refusal that may be about the account, and blocks that after three of different operations.
--
-- Run by: a drain. Index: suspicion_pkey, operation_finished. Locks: the suspicion's row, perhaps the account.
select outbox.suspect(%(account)s, %(operation_id)s, %(status)s, %(seconds)s)
