-- The legal holds of one operation: its own, and those of its account and its lane.
--
-- Run by: a person. Index: operation_pkey, legal_hold_operation_id_key, legal_hold_of_scope, action_pkey.
-- Locks: nothing.
select h.operation_id, h.account, h.lane, h.reason, h.held_by, h.held_at
from outbox.operation o
join outbox.held h on h.operation_id = o.id
    or (h.operation_id is null and (h.account is null or h.account = o.account) and (h.lane is null or h.lane = o.lane))
where o.id = %(id)s
order by h.held_at
