-- Notices what was accepted and no webhook spoke of in time; returns how many are new.
--
-- Run by: upkeep. Index: operation_finished, delivery_pkey. Locks: rows of webhook_source.
select outbox.watch_deliveries(%(max_count)s) as count
