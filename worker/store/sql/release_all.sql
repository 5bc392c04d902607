-- Lifts the legal hold of an account, a lane, or a lane of an account.
--
-- Run by: an administrator. Index: legal_hold_operation_id_key, legal_hold_of_scope.
-- Locks: the row of retention; keeps out what scrubs and deletes.
select outbox.release_all(%(account)s, %(lane)s, %(reason)s)
