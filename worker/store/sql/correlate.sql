-- Matches up to max_count webhooks with their operations, and compares what they prove with the record.
--
-- Run by: the receiver after webhooks came, and upkeep. Index: webhook_to_match, delivery_to_weigh,
-- operation_of_provider, operation_key_is_unique. Locks: those webhooks, and unresolved operations that it settles
-- (past those that others hold).
select looked_count, settled from outbox.correlate(%(max_count)s)
