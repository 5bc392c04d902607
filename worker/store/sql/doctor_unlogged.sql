-- Tables and sequences of the outbox that a crash would empty, or set back.
--
-- Run by: `ringonce doctor`. Index: none. Locks: nothing.
select case relkind when 'S' then 'sequence' else 'table' end as kind, relname::text as name from pg_class
where relnamespace = to_regnamespace('outbox') and relkind in ('r', 'p', 'S') and relpersistence = 'u'
order by relkind = 'S', relname
