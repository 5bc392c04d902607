-- How many rows a source has, counted up to one more than look, and the lowest number among them.
--
-- Run by: a person, behind one of list_from_*.sql. Index: the source's. Locks: nothing.
select count(*) as count, min(id) as last from (select id from source limit %(look)s + 1) as looked
