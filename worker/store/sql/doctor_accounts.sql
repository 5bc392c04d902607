-- Where each account calls, and as whom: as much as a worker's user may read of it, too.
--
-- Run by: `ringonce doctor`. Index: none, a row for each account. Locks: nothing.
select name, app_id, base_url from outbox.account order by name
