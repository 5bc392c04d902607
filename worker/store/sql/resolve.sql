-- Settles an unresolved operation by what a person found out; its state now.
--
-- Run by: an administrator. Index: operation_pkey. Locks: the operation.
select outbox.resolve(%(id)s, %(outcome)s::outbox.state, %(reason)s)
