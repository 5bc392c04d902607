-- What retention waits for, by Postgres' clock, and which database this is.
--
-- Run by: a person. Index: none; one row. Locks: nothing.
select only_exported, exported_until, clock_timestamp() as seen_at,
       (select system_identifier from pg_control_system()) || '/'
           || (select oid from pg_database where datname = current_database()) as outbox
from outbox.retention
