-- Takes payloads and answers from operations that have been final for longer than keep (seconds).
--
-- Run by: upkeep. Index: operation_to_scrub. Locks: those operations; past rows that others hold.
select outbox.scrub(make_interval(secs => %(keep)s), %(max_count)s)
