-- Deletes webhooks that came longer than keep (seconds) ago; returns how many.
--
-- Run by: upkeep. Index: webhook_pkey. Locks: those rows.
select outbox.forget_webhooks(make_interval(secs => %(keep)s), %(max_count)s) as count
