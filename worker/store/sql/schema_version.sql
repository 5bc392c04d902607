-- The version of the outbox in this database; fails where there is none.
--
-- Run by: every worker at its start, `ringonce migrate`. Index: schema_version_pkey. Locks: nothing.
select max(version) from outbox.schema_version
