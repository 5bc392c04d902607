-- Takes back leases that expired 5 s ago or more; each becomes a row.
--
-- Run by: upkeep. Index: operation_in_flight. Locks: those operations; past rows that others hold.
select id, number, endpoint, state, traceparent from outbox.rescue(%(max_count)s)
