-- Who has had a table of the outbox locked for longest, and may be what a migration waits for.
--
-- Run by: `ringonce migrate`. Locks: nothing.
select a.pid, coalesce(nullif(a.application_name, ''), a.usename, a.backend_type) as who,
       coalesce(a.state, 'busy') as state
from pg_catalog.pg_stat_activity a
where a.pid <> pg_backend_pid()
  and exists (select from pg_catalog.pg_locks l
              join pg_catalog.pg_class c on c.oid = l.relation
              join pg_catalog.pg_namespace n on n.oid = c.relnamespace
              where l.pid = a.pid and l.granted and n.nspname = 'outbox'
                and l.database = (select oid from pg_catalog.pg_database where datname = current_database()))
order by a.xact_start nulls last
limit 1
