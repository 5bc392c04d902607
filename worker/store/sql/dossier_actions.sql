-- What administrators did to one operation.
--
-- Run by: a person. Index: action_of_operation. Locks: nothing.
select id, name, reason, detail, acted_by || coalesce(' for ' || acted_for, '') as acted_by, acted_at
from outbox.action
where operation_id = %(id)s
order by id
