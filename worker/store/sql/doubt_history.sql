-- Shuts claims for the whole fleet until a person adopts or confirms the history.
--
-- Run by: an administrator. Index: none, one row. Locks: that row.
select outbox.doubt_history(%(reason)s)
