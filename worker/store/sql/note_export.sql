-- Notes that what became final from since to before until has been exported; tells whether all has been until then.
--
-- Run by: an administrator. Index: none; one row. Locks: the row of retention.
select outbox.note_export(%(since)s, %(until)s, %(reason)s, %(detail)s) >= %(until)s::timestamptz as noted
