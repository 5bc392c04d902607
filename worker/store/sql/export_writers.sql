-- The transactions that are writing operations now, each by a name of its own. Who has not written yet finishes nothing
-- before now.
--
-- Run by: an administrator. Index: none; the locks of the server. Locks: nothing.
select distinct virtualtransaction as name, pid
from pg_locks
where locktype = 'relation' and relation = 'outbox.operation'::regclass
  and database = (select oid from pg_database where datname = current_database())
  and mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') and granted
