-- The first operation from a number on: when it was enqueued. A step of a search by halves.
--
-- Run by: a person. Index: operation_pkey. Locks: nothing.
select id, created_at from outbox.operation where id >= %(id)s order by id limit 1
