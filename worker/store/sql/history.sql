-- Which history claims are made in, and why they are shut if they are.
--
-- Run by: a person. Index: none, one row. Locks: nothing.
select why.reason as shut, h.doubted_at, h.noted_at, h.adopted_at, h.timeline, h.tolerated_loss,
       clock_timestamp() as seen_at
from outbox.history h
cross join outbox.why_shut() as why (reason)
