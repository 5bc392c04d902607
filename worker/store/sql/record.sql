-- Records what came of attempts, each under the token that sent it.
--
-- Run by: the recorder, for a batch. Index: operation_pkey, attempt_pkey. Locks: the operations, in the order
-- of their numbers, past those that others hold ("locked"), and the meters of accounts whose breaker may turn. With
-- each row comes how far the write-ahead log is on disk: the process remembers it. Rows without a number tell of
-- breakers that turned.
select operation_id, number, fate, state, pg_current_wal_flush_lsn()::text as lsn
from outbox.record(
    %(operation_ids)s::bigint[], %(numbers)s::integer[], %(lease_tokens)s::uuid[], %(verdicts)s::outbox.verdict[],
    %(phases)s::outbox.phase[], %(statuses)s::integer[], %(errors)s::text[], %(provider_ids)s::text[],
    %(body_hashes)s::bytea[], %(answer_hashes)s::bytea[], %(headers)s::jsonb[], %(bodies)s::bytea[],
    %(states)s::outbox.state[], %(repeat_counts)s::integer[], %(delays)s::double precision[], %(counts)s::boolean[],
    %(settled)s::boolean[], %(clears_doubt)s::boolean[], %(keys)s::text[])
