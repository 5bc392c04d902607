-- A source of lists: the operations of one key, one to an APP ID.
--
-- Run by: a person. Index: operation_key_is_unique, in whose order it is asked for. Locks: nothing.
select * from operations
where idempotency_key = %(key)s
order by idempotency_key, app_id limit %(look)s + 1
