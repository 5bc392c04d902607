-- Notes that what became final from since to before until has been exported; tells whether all has been until a time.
--
-- Run by: an administrator. Index: retention_pkey. Locks: the row of retention.
select outbox.note_export(%(since)s, %(until)s, %(reason)s, %(detail)s) is not null as noted
