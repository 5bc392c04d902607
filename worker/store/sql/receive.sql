-- Keeps one webhook; whether it is new.
--
-- Run by: the receiver, for each webhook. Index: webhook_comes_once. Locks: nothing that others wait for.
select outbox.receive(%(account)s, %(digest)s, %(headers)s, %(body)s, %(reports)s)
