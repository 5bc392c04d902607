-- How far each recipient of one operation was reached.
--
-- Run by: an administrator who asks for it. Index: delivery_pkey. Locks: nothing.
select operation_id, provider_id, recipient, state::text as state, status, told_at, changed_at, webhook_id, evidence, agrees
from outbox.delivery
where operation_id = %(id)s
order by coalesce(told_at, first_at), provider_id, recipient
limit 1000
