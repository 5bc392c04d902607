-- A source of lists: the operations in those of the wanted states that are not final, if they are few.
--
-- Run by: a person. Index: operation_to_claim, operation_window_to_close, operation_in_flight,
-- operation_unresolved. Locks: nothing.
-- Each part is asked for in the order of its index: else a planner that believes that many wait walks over
-- operation_pkey to meet them.
(select * from operations
 where state = 'queued' and 'queued' = any (%(live)s) and not %(in_doubt)s
 order by account, endpoint, lane, priority, next_attempt_at, id limit %(look)s + 1)
union all
(select * from operations
 where state = 'queued' and 'queued' = any (%(live)s) and %(in_doubt)s and first_sent_at is not null
 order by key_window_closes_at limit %(look)s + 1)
union all
(select * from operations
 where state = 'in_flight' and 'in_flight' = any (%(live)s)
 order by lease_expires_at limit %(look)s + 1)
union all
(select * from operations
 where state = 'unresolved' and 'unresolved' = any (%(live)s)
 order by id limit %(look)s + 1)
