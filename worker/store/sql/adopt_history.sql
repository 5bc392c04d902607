-- Puts in doubt what may have been sent since then without a record, and opens claims; how much that is.
--
-- Run by: an administrator. Index: operation_pkey, attempt_pkey. Locks: all claims out; every operation that is not
-- final and is due, or was tried.
select in_doubt_count, unresolved_count from outbox.adopt_history(%(lost_since)s, %(reason)s)
