-- Forgets workers that have not been heard of for an hour.
--
-- Run by: upkeep. Index: none, a row for each worker. Locks: those rows.
select outbox.forget_workers()
