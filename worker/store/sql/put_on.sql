-- Puts on one of the outbox's roles for as long as the session lasts, and says whom it acts for.
--
-- Run by: the admin page. Index: none. Locks: nothing.
select set_config('role', %(role)s, false), set_config('outbox.acted_for', %(acted_for)s, false),
       set_config('statement_timeout', %(timeout)s, false)
