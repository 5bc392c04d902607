-- For the transaction: lists are planned over the indexes whose order they name, whatever the statistics say of a
-- table that grew since.
--
-- Run by: a person. Index: none. Locks: nothing.
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_sort', 'off', true), set_config('jit', 'off', true)
