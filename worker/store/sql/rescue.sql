-- Takes back leases that expired 5 s ago or more.
--
-- Run by: upkeep. Index: operation_in_flight. Locks: those operations; past rows that others hold.
select outbox.rescue(%(max_count)s)
