-- Records what came of attempts, each under the token that sent it.
--
-- Run by: the recorder, for a batch. Index: operation_pkey, attempt_pkey. Locks: the operations, in the order
-- of their numbers. With each row comes how far the write-ahead log is on disk: the process remembers it.
select operation_id, number, fate, state, pg_current_wal_flush_lsn()::text as lsn
from outbox.record(
    %(operation_ids)s, %(numbers)s, %(lease_tokens)s, %(verdicts)s::outbox.verdict[], %(phases)s::outbox.phase[],
    %(statuses)s, %(errors)s, %(provider_ids)s, %(body_hashes)s, %(answer_hashes)s, %(headers)s, %(bodies)s,
    %(states)s::outbox.state[], %(repeat_counts)s, %(delays)s, %(counts)s, %(settled)s, %(clears_doubt)s)
