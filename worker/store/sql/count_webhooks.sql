-- How many webhooks wait for their operations, and the oldest for how long; of no more than 10,000, for a scrape
-- must not take the longer, the more of them tell of what others have sent.
--
-- Run by: a person, and `ringonce metrics` at each scrape. Index: webhook_to_match. Locks: nothing.
select count(*) as unmatched_count, coalesce(clock_timestamp() - min(received_at), interval '0') as oldest_age
from (
    select received_at from outbox.webhook where next_look_at is not null order by next_look_at limit 10000
) as t
