-- Prepared transactions of this database, which nobody may remember.
--
-- Run by: `ringonce doctor`. Index: none. Locks: nothing.
select gid, clock_timestamp() - prepared as age from pg_prepared_xacts where database = current_database() order by prepared
