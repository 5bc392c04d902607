-- Lifts the legal hold of an operation.
--
-- Run by: an administrator. Index: legal_hold_operation_id_key, legal_hold_of_scope.
-- Locks: the row of retention; keeps out what scrubs and deletes.
select outbox.release(%(id)s, %(reason)s)
