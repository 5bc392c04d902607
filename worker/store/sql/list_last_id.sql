-- The number of the newest operation; null if there is none.
--
-- Run by: a person. Index: operation_pkey. Locks: nothing.
select max(id) as id from outbox.operation
