-- Takes a queued operation back; the state it has now.
--
-- Run by: an administrator. Index: operation_pkey. Locks: the operation.
select outbox.cancel(%(id)s, %(reason)s)
