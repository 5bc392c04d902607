-- Announces that a node leaves something due, under the name of the node.
--
-- Run by: a drain whose time is over. Index: none. Locks: the queue of notifications, while it commits.
select pg_notify('ringonce', %(node)s)
