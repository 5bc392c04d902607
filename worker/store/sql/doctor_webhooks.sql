-- How many webhooks of the last week could not be made use of, for a reason; up to 1,000.
--
-- Run by: `ringonce doctor`. Index: webhook_in_trouble. Locks: nothing.
select count(*) as count
from (
    select from outbox.webhook
    where problem <> 'no operation fits' and received_at > clock_timestamp() - interval '168:00:00'
    limit 1000
) as t
