-- Proof that the API executed one key twice, or what is on record as not executed.
--
-- Run by: a person. Index: attempt_in_conflict, attempt_pkey, delivery_that_disagrees, delivery_pkey, operation_pkey.
-- Locks: nothing.
select id, account, endpoint, state::text as state, idempotency_key, recorded_provider_id, attempt_number,
       provider_id, encode(body_sha256, 'hex') as body_sha256, started_at, meaning
from outbox.conflict
order by id, attempt_number
limit %(limit)s
