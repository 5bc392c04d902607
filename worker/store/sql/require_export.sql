-- Says whether retention takes only what has been exported.
--
-- Run by: an administrator. Index: legal_hold_operation_id_key, legal_hold_of_scope. Locks: what is being scrubbed and deleted out, and the row of retention.
select outbox.require_export(%(required)s, %(reason)s)
