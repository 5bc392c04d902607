-- What one operation says: its payload and its recorded answer.
--
-- Run by: a person who asked to see them. Index: operation_pkey. Locks: nothing.
select payload::text as payload, response_headers, response_body
from outbox.operation
where id = %(id)s
