-- What the API accepted, and no webhook spoke of in time; from the number behind after on.
--
-- Run by: a person. Index: silence_pkey, operation_pkey, delivery_pkey. Locks: nothing.
select id, account, endpoint, idempotency_key, lane, provider_id, finished_at, age, noticed_at
from outbox.undelivered
where id > %(after)s
  and (%(account)s::text is null or account = %(account)s)
  and (%(endpoint)s::text is null or endpoint = %(endpoint)s)
order by id
limit %(limit)s
