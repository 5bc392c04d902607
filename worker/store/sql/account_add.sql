-- Adds an account, unless it is there already; one row if it was not.
--
-- Run by: an administrator. Index: account_pkey. Locks: the new row.
insert into outbox.account (name, app_id)
values (%(name)s, %(app_id)s)
on conflict (name) do nothing
returning name
