-- A source of lists: the operations that became final between two times, if they are few.
--
-- Run by: an administrator, for a reader may not even know which of these two indexes a row is in. Index:
-- operation_to_scrub, operation_to_purge. Locks: nothing.
-- Each part is asked for in the order of its index, as in list_from_live.sql.
(select * from outbox.operation
 where finished_at is not null and payload is not null
   and finished_at >= coalesce(%(finished_since)s::timestamptz, '-infinity')
   and finished_at < coalesce(%(finished_until)s::timestamptz, 'infinity')
 order by finished_at limit %(look)s + 1)
union all
(select * from outbox.operation
 where finished_at is not null and payload is null
   and finished_at >= coalesce(%(finished_since)s::timestamptz, '-infinity')
   and finished_at < coalesce(%(finished_until)s::timestamptz, 'infinity')
 order by finished_at limit %(look)s + 1)
