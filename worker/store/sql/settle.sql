-- Settles queued operations whose deadline passed or whose key's window closed; each becomes a row.
--
-- Run by: upkeep. Index: operation_deadline_to_pass, operation_window_to_close. Locks: those operations; past
-- rows that others hold.
select id, number, endpoint, state, traceparent from outbox.settle_passed(%(max_count)s)
