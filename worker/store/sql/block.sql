-- Stops an account, or (endpoint given) its use of one endpoint, for some seconds.
--
-- Run by: a drain whose call was throttled. Index: account_pkey, throttle_pkey. Locks: that row.
select outbox.block(%(account)s, %(endpoint)s, %(seconds)s, %(reason)s)
