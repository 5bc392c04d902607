-- Who asks, and which roles of the outbox he has; null for one that does not exist.
--
-- Run by: `ringonce doctor`. Index: none. Locks: nothing.
select current_user::text as name,
       bool_or(pg_has_role(oid, 'usage')) filter (where rolname = 'outbox_producer') as outbox_producer,
       bool_or(pg_has_role(oid, 'usage')) filter (where rolname = 'outbox_worker') as outbox_worker,
       bool_or(pg_has_role(oid, 'usage')) filter (where rolname = 'outbox_receiver') as outbox_receiver,
       bool_or(pg_has_role(oid, 'usage')) filter (where rolname = 'outbox_reader') as outbox_reader,
       bool_or(pg_has_role(oid, 'usage')) filter (where rolname = 'outbox_admin') as outbox_admin
from pg_roles
