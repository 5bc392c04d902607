-- Tasks of on_done that are still to be sent: how many, for how long the oldest, and whether any has been tried.
--
-- Run by: `ringonce metrics`, at each scrape, and the doctor. Index: none, for it counts; a row is there for
-- moments, unless the app's broker takes none. Locks: nothing.
select count(*) as count, coalesce(clock_timestamp() - min(created_at), '0') as oldest_age,
       coalesce(max(attempt_count), 0) > 0 as tried
from outbox.announcement
