-- What can be computed of an operation's bytes now: the body that is sent, and the answer on record.
--
-- Run by: an administrator. Index: operation_pkey. Locks: nothing.
select sha256(convert_to(payload::text, 'UTF8')) = payload_sha256 as payload_is_intact,
       encode(sha256(response_body), 'hex') as response_sha256,
       (select max(version) from outbox.schema_version) as schema_version
from outbox.operation
where id = %(id)s
