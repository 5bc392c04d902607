-- Adds an endpoint that behaves like those of EnableX, unless it is there already; one row if it was not.
--
-- Run by: an administrator. Index: endpoint_pkey. Locks: the new row.
insert into outbox.endpoint (name, path)
values (%(name)s, %(path)s)
on conflict (name) do nothing
returning name
