-- What retention waits for, by Postgres' clock.
--
-- Run by: a person. Index: none; one row. Locks: nothing.
select only_exported, exported_until, clock_timestamp() as seen_at from outbox.retention
