-- Deletes announcements that were sent, and puts off those that could not be.
--
-- Run by: the herald. Index: announcement_pkey. Locks: those rows.
select outbox.record_announcements(%(sent)s::bigint[], %(put_off)s::bigint[])
