-- The version of the outbox in this database, and the oldest version whose workers work with it as well; fails
-- where there is none. By way of JSON, because the first versions had no column for the latter.
--
-- Run by: every worker at its start, `ringonce migrate`, `ringonce doctor`. Index: schema_version_pkey. Locks: nothing.
select v.version, coalesce((to_jsonb(v) ->> 'compatible_from')::integer, v.version) as compatible_from
from outbox.schema_version v
order by v.version desc
limit 1
