-- Puts an account, a lane, or a lane of an account under a legal hold.
--
-- Run by: an administrator. Index: legal_hold_operation_id_key, legal_hold_of_scope.
-- Locks: that account, for key share; keeps out what scrubs and deletes.
select outbox.hold_all(%(account)s, %(lane)s, %(reason)s)
