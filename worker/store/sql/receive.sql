-- Keeps one webhook; whether it is new.
--
-- Run by: the receiver, for each webhook. Index: webhook_comes_once. Locks: a key share of
-- the account, which whoever deletes it, or moves it to another outbox (deploy/sharding), waits for.
select outbox.receive(%(account)s, %(digest)s, %(headers)s, %(body)s, %(reports)s)
