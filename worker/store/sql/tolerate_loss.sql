-- Sets how long ago the history may have been noted for a new timeline to be adopted without a person; null: never.
--
-- Run by: an administrator. Index: none, one row. Locks: that row, for which workers that note it wait.
update outbox.history
set tolerated_loss = make_interval(secs => %(seconds)s)
returning tolerated_loss
