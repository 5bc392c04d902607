-- A source of lists: the operations to which the API gave one id, if they are few.
--
-- Run by: a person. Index: operation_of_provider, in whose order it is asked for. Locks: nothing.
select * from operations
where provider_id = %(provider_id)s
order by provider_id limit %(look)s + 1
