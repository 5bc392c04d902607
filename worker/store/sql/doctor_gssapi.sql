-- A row if the way to the server itself, not to a pooler before it, is encrypted by GSSAPI; libpq's flag for TLS is not set then.
--
-- Run by: `ringonce doctor`. Index: none, a row for each session. Locks: nothing.
select pid from pg_stat_gssapi where pid = pg_backend_pid() and pid = %(pid)s and encrypted
