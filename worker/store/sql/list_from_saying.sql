-- A source of lists: those of a walk from the newest backwards (list_from_newest.sql) whose payload holds these
-- digits: no index knows what payloads say.
--
-- Run by: an administrator, who may read payloads. Index: operation_pkey. Locks: nothing.
select * from (
    select * from outbox.operation
    where id < %(before)s
    order by id desc limit %(look)s
) as newest
where strpos(payload::text, %(digits)s) > 0
