-- How many operations stand where, and for how long the oldest has been there.
--
-- Run by: a person. Index: operation_to_claim alone for what is queued, operation_in_flight,
-- operation_unresolved, and a fold of the finished counts; finished operations are not read. Locks: nothing.
select account, endpoint, state::text as state, count, oldest, clock_timestamp() - oldest as oldest_age
from outbox.status as status
order by account, endpoint, status.state
