-- Settles queued operations whose deadline passed or whose key's window closed.
--
-- Run by: upkeep. Index: operation_deadline_to_pass, operation_window_to_close. Locks: those operations; past
-- rows that others hold.
select outbox.settle_passed(%(max_count)s)
