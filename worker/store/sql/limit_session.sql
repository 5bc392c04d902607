-- Gives a session its own limits, whatever its role or its database says. No row: a pooler lends the session for a
-- transaction at a time, as the process id tells that is not the server's, and whoever gets it next would have them.
--
-- Run by: what works on a connection that it keeps, once. Index: none. Locks: nothing.
select set_config(name, value, false)
from jsonb_each_text(%(limits)s::jsonb) as limits (name, value)
where pg_backend_pid() = %(pid)s
