-- For how many seconds the place of a node on the rota has lapsed (negative: it is good for so long; null: it has
-- none), and how many a call to any endpoint may take.
--
-- Run by: `ringonce probe`. Index: worker_pkey, and a row for each endpoint. Locks: nothing.
select extract(epoch from clock_timestamp() - max(lease_expires_at))::double precision as lapsed_seconds,
       (select coalesce(extract(epoch from max(call_deadline)), 0) from outbox.endpoint)::double precision as call_seconds
from outbox.worker
where node = %(node)s
