-- Replication slots that hold back vacuum, or that nobody reads.
--
-- Run by: `ringonce doctor`. Index: none. Locks: nothing.
select slot_name::text as slot_name, active, age(xmin) as xmin_age
from pg_replication_slots
where xmin is not null or not active
order by slot_name
