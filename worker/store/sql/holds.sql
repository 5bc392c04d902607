-- What is under a legal hold: accounts and lanes as a whole first, then the operations, the newest first.
--
-- Run by: a person. Index: legal_hold_operation_id_key, action_pkey. Locks: nothing.
select operation_id, account, lane, reason, held_by, held_at
from outbox.held
order by operation_id desc nulls first, held_at
limit %(limit)s
