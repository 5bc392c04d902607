-- Notes that the history is unchanged, and doubts it if this process remembers more than the database does.
--
-- Run by: the bell, once a round, and every connection of a pool before its first use. Index: none, one row.
-- Locks: that row, when more than two seconds have passed since it was noted last.
select shut, history_number, lsn::text, newly_unresolved
from outbox.note_history(%(hold)s::interval, %(number)s::integer, %(lsn)s::pg_lsn)
