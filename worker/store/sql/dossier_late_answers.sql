-- The bodies of late accepted answers, kept as evidence.
--
-- Run by: a person who asked to see them. Index: attempt_pkey. Locks: nothing.
select number, late_body
from outbox.attempt
where operation_id = %(id)s and late_body is not null
order by number
