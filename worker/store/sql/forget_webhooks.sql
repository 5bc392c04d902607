-- Deletes webhooks that came longer than keep (seconds) ago, but for those of what is held; returns how many.
--
-- Run by: upkeep. Index: webhook_to_forget; where there are holds, operation_of_provider and operation_key_is_unique.
-- Locks: those rows. Keeps holds from being placed.
select outbox.forget_webhooks(make_interval(secs => %(keep)s), %(max_count)s) as count
