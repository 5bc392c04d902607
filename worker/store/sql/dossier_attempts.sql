-- Every try of one operation.
--
-- Run by: a person. Index: attempt_pkey. Locks: nothing.
select operation_id, number, started_at, finished_at, verdict::text as verdict, phase::text as phase,
       status, error, provider_id, encode(body_sha256, 'hex') as body_sha256, leased_by, recorded, late, disproved, doubt
from outbox.attempt
where operation_id = %(id)s
order by number
