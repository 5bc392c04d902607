-- Takes this bell off the rota, so that the next one need not wait for its lease to lapse.
--
-- Run by: a bell that is told to stop. Index: worker_pkey. Locks: its own row.
delete from outbox.worker where node = %(node)s and pid = %(pid)s
