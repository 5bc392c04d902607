-- Lifts the legal hold of an operation.
--
-- Run by: an administrator. Index: legal_hold_operation_id_key, legal_hold_of_scope. Locks: what is being scrubbed and deleted out.
select outbox.release(%(id)s, %(reason)s)
