-- What waits for a person, with what each attempt is known to have done.
--
-- Run by: a person. Index: operation_unresolved, attempt_pkey. Locks: nothing.
select id, account, endpoint, idempotency_key, lane, created_at, first_sent_at, key_window_closes_at, last_error,
       attempts
from outbox.unresolved
where id > %(after)s
  and (%(account)s::text is null or account = %(account)s)
  and (%(endpoint)s::text is null or endpoint = %(endpoint)s)
order by id
limit %(limit)s
