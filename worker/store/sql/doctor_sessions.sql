-- The sessions whose snapshots keep this database from being cleaned up, and since when.
--
-- Run by: `ringonce doctor`. Index: none, a row for each session. Locks: nothing.
-- A user without pg_read_all_stats sees of others that they are there, and no more.
select pid, usename::text as usename, application_name, backend_type, state,
       clock_timestamp() - xact_start as open_for, clock_timestamp() - state_change as idle_for,
       pg_has_role('pg_read_all_stats', 'usage') or pg_has_role(usesysid, 'usage') as seen
from pg_stat_activity
where pid <> pg_backend_pid() and (datname = current_database() or backend_type = 'walsender')
  and usesysid is not null
order by xact_start, pid
