-- Says whether retention takes only what has been exported.
--
-- Run by: an administrator. Index: none; one row. Locks: the row of retention; keeps out what scrubs and deletes.
select outbox.require_export(%(required)s, %(reason)s)
