-- Puts an operation under a legal hold.
--
-- Run by: an administrator. Index: legal_hold_operation_id_key, legal_hold_of_scope.
-- Locks: that operation, for key share; keeps out what scrubs and deletes.
select outbox.hold(%(id)s, %(reason)s)
