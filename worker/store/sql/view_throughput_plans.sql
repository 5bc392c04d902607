-- For the transaction: the throughput is read by its index, however little the statistics know of the last hour.
--
-- Run by: a person. Index: none. Locks: nothing.
select set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)
