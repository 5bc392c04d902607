-- Has a webhook be due for each operation of an account and endpoint within so many seconds; null: no longer.
--
-- Run by: an administrator. Index: webhook_source_pkey. Locks: the account, and its row there.
select outbox.expect_webhooks(%(account)s, %(endpoint)s, make_interval(secs => %(seconds)s), %(reason)s)
