-- A row, if the index is there and is of no use: whoever made it concurrently was interrupted.
--
-- Run by: `ringonce migrate`. Index: pg_class_relname_nsp_index. Locks: nothing.
select from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indexrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'outbox' and c.relname = %(name)s and not i.indisvalid
