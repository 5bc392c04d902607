-- Does an operation again under a new key, once; the new operation.
--
-- Run by: an administrator. Index: operation_pkey, operation_reissue_of_key. Locks: the operation.
select id, idempotency_key from outbox.reissue(%(id)s, %(reason)s)
