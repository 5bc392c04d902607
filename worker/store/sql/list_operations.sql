-- Those operations of a source that pass a filter, the newest first, without what they say.
--
-- Run by: a person, behind one of list_from_*.sql. Index: the source's; nothing else is read. Locks: nothing.
select o.id, o.account, o.endpoint, o.lane, o.priority, o.state::text as state, o.idempotency_key, o.attempt_count,
       o.next_attempt_at, o.deadline_at, o.first_sent_at, o.key_window_closes_at, o.response_status, o.provider_id,
       o.last_error, o.created_at, o.finished_at
from source o
where o.id < %(before)s
  and (%(states)s::text[] is null or o.state = any (%(states)s::outbox.state[]))
  and (%(account)s::text is null or o.account = %(account)s)
  and (%(endpoint)s::text is null or o.endpoint = %(endpoint)s)
  and (%(lane)s::text is null or o.lane = %(lane)s)
  and (%(key)s::text is null or o.idempotency_key = %(key)s)
  and (%(provider_id)s::text is null or o.provider_id = %(provider_id)s)
  and (%(created_since)s::timestamptz is null or o.created_at >= %(created_since)s)
  and (%(created_until)s::timestamptz is null or o.created_at < %(created_until)s)
  and (%(finished_since)s::timestamptz is null or o.finished_at >= %(finished_since)s)
  and (%(finished_until)s::timestamptz is null or o.finished_at < %(finished_until)s)
  and (not %(in_doubt)s or (o.first_sent_at is not null and o.finished_at is null))
  and (not %(held)s or outbox.is_held(o.id, o.account, o.lane))
  and (%(error)s::text is null or strpos(lower(o.last_error), lower(%(error)s)) > 0)
order by o.id desc
limit %(limit)s
