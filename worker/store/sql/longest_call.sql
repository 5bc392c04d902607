-- How many seconds a call to any endpoint may take.
--
-- Run by: a bell that misses its drains. Index: none, a row for each endpoint. Locks: nothing.
select coalesce(extract(epoch from max(call_deadline)), 0)::double precision from outbox.endpoint
