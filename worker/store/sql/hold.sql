-- Puts an operation under a legal hold.
--
-- Run by: an administrator. Index: legal_hold_operation_id_key, legal_hold_of_scope. Locks: what is being scrubbed and deleted out, and that operation for key share.
select outbox.hold(%(id)s, %(reason)s)
