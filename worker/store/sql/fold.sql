-- Folds the deltas of outbox.finished_count into one row for each account, endpoint and state, and those of
-- outbox.attempt_count into one for each minute, verdict and duration.
--
-- Run by: upkeep. Index: none, some rows for each batch recorded since. Locks: those rows.
select outbox.fold_counts()
