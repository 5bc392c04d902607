-- A source of lists: the operations of this number, this key or this id of the provider's.
--
-- Run by: a person. Index: operation_pkey, operation_key_is_unique, operation_of_provider. Locks: nothing.
select * from operations
where id = any(
    array(select k.id from operations k where k.idempotency_key = %(name)s limit %(limit)s)
    || array(select p.id from operations p where p.provider_id = %(name)s limit %(limit)s)
    || %(number)s::bigint
)
