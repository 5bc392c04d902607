-- A source of lists: the operations that are under a legal hold of their own, if they are few.
--
-- Run by: a person. Index: legal_hold_operation_id_key, operation_pkey. Locks: nothing.
select * from operations
where id = any (array(
    select operation_id from outbox.legal_hold where operation_id is not null order by operation_id limit %(look)s + 1))
