-- A source of lists: the next operations behind one, in those of the wanted states that are rare, backwards by
-- their numbers; no more than look.
--
-- Run by: a person. Index: operation_unresolved and operation_not_executed, whose orders are merged. Locks: nothing.
(select * from operations
 where state = 'unresolved' and 'unresolved' = any (%(rare)s) and id < %(before)s and id >= %(from_id)s
 order by id desc limit %(look)s)
union all
(select * from operations
 where state = 'failed' and 'failed' = any (%(rare)s) and id < %(before)s and id >= %(from_id)s
 order by id desc limit %(look)s)
union all
(select * from operations
 where state = 'expired' and 'expired' = any (%(rare)s) and id < %(before)s and id >= %(from_id)s
 order by id desc limit %(look)s)
union all
(select * from operations
 where state = 'cancelled' and 'cancelled' = any (%(rare)s) and id < %(before)s and id >= %(from_id)s
 order by id desc limit %(look)s)
order by id desc limit %(look)s
