-- Tables of the outbox that a crash would empty.
--
-- Run by: `ringonce doctor`. Index: none. Locks: nothing.
select relname::text as name from pg_class
where relnamespace = to_regnamespace('outbox') and relkind = 'r' and relpersistence = 'u'
order by relname
