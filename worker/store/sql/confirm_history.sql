-- Opens claims: a person vouches that nothing was lost.
--
-- Run by: an administrator. Index: none, one row. Locks: all claims out; that row.
select outbox.confirm_history(%(reason)s)
