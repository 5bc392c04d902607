-- How each endpoint behaves, or the one of that name.
--
-- Run by: a person. Index: none, a handful of rows. Locks: nothing.
select name, path, success_field, success_value, id_field, key_header, key_ttl, key_safety, settle, call_deadline,
       max_attempts, backoff, backoff_cap, default_deadline, last_try, refusal_is_proof, caches_errors, account_codes,
       revision
from outbox.endpoint
where %(name)s::text is null or name = %(name)s
order by name
