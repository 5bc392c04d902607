-- Which of the outbox's roles somebody has been granted: the session's own user, or whom it acts for.
--
-- Run by: the admin page. Index: pg_authid_rolname_index. Locks: nothing.
select rolname::text as name, pg_has_role(oid, 'outbox_reader', 'member') as is_reader,
       pg_has_role(oid, 'outbox_admin', 'member') as is_admin
from pg_roles
where rolname = coalesce(%(name)s::text, session_user)
