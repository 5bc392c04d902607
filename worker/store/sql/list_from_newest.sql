-- A source of lists: the next operations behind one, backwards by their numbers; no more than look.
--
-- Run by: a person. Index: operation_pkey. Locks: nothing.
select * from operations
where id < %(before)s and id >= %(from_id)s
order by id desc
limit %(look)s
