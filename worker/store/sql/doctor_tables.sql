-- The dead rows of each table of the outbox, and whether anybody cleans them up.
--
-- Run by: `ringonce doctor`. Index: none, a row for each table. Locks: nothing.
select c.relname::text as name, s.n_dead_tup as dead, s.n_live_tup as live,
       greatest(s.last_vacuum, s.last_autovacuum) as vacuumed_at,
       coalesce((select o.option_value::boolean from pg_options_to_table(c.reloptions) as o
                  where o.option_name = 'autovacuum_enabled'), true) as autovacuum
from pg_class c
join pg_stat_user_tables s on s.relid = c.oid
where c.relnamespace = to_regnamespace('outbox')
order by c.relname
