-- How far retention knows that all is under a legal hold; as it walks on, this changes.
--
-- Run by: an administrator. Index: none; one row. Locks: nothing.
select scrub_from, purge_from, webhook_from from outbox.retention
