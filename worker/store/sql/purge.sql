-- Deletes scrubbed operations that have been final for longer than keep (seconds).
--
-- Run by: upkeep. Index: operation_to_purge. Locks: those operations; past rows that others hold.
select outbox.purge(make_interval(secs => %(keep)s), %(max_count)s)
