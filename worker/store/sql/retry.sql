-- Sends an operation again under the same key, if its key or its attempts make that safe; its state now.
--
-- Run by: an administrator. Index: operation_pkey, attempt_pkey. Locks: the operation.
select outbox.retry(%(id)s, %(reason)s)
