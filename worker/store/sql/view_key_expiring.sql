-- What will be retried in doubt, by the time left to its key.
--
-- Run by: a person. Index: operation_window_to_close. Locks: nothing.
select id, account, endpoint, first_sent_at, key_window_closes_at, time_left, next_attempt_at, attempt_count,
       last_error
from outbox.key_expiring
where %(within)s::double precision is null
   or key_window_closes_at < clock_timestamp() + make_interval(secs => %(within)s)
order by key_window_closes_at
limit %(limit)s
