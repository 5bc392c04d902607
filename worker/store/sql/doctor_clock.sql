-- What time it is.
--
-- Run by: `ringonce doctor`. Index: none. Locks: nothing.
select clock_timestamp() as now
