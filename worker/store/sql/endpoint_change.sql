-- Changes those columns of an endpoint that are members of a JSON object; one row if there is one.
--
-- Run by: an administrator. Index: endpoint_pkey. Locks: its row, which no claim waits for.
update outbox.endpoint as e
set (path, success_field, success_value, id_field, key_header, key_ttl, key_safety, settle, call_deadline, max_attempts,
     backoff, backoff_cap, default_deadline, last_try, refusal_is_proof, caches_errors, account_codes)
  = (select n.path, n.success_field, n.success_value, n.id_field, n.key_header, n.key_ttl, n.key_safety, n.settle,
            n.call_deadline, n.max_attempts, n.backoff, n.backoff_cap, n.default_deadline, n.last_try,
            n.refusal_is_proof, n.caches_errors, n.account_codes
     from jsonb_populate_record(e, %(changes)s::jsonb) as n)
where e.name = %(name)s
returning e.name
