-- How each endpoint behaves, with the revision that a claim names.
--
-- Run by: a drain that claimed an operation of an endpoint it does not know in that revision.
-- Index: none, a handful of rows. Locks: nothing.
select name, revision, success_field, success_value, id_field, account_codes, refusal_is_proof, last_try,
       max_attempts, backoff, backoff_cap, settle, call_deadline
from outbox.endpoint
