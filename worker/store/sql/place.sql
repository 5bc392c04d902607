-- Which database this is: of which cluster, and which of that.
--
-- Run by: whoever has two URLs that should lead to one. Index: a look-up by name. Locks: nothing.
select (pg_control_system()).system_identifier::text as cluster, oid::bigint as database
from pg_database where datname = current_database()
