-- How many webhooks wait for their operations, and the oldest for how long.
--
-- Run by: a person, and `ringonce metrics` at each scrape. Index: webhook_to_match. Locks: nothing.
select count(*) as unmatched_count, coalesce(clock_timestamp() - min(received_at), interval '0') as oldest_age
from outbox.webhook
where next_look_at is not null
