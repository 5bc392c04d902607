-- For the transaction: exports are planned over the indexes whose order they name, whatever the statistics say, and
-- written alike whoever asks. No timeout of a role or the database ends them.
--
-- Run by: an administrator. Index: none. Locks: nothing.
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
       set_config('jit', 'off', true), set_config('timezone', 'UTC', true), set_config('datestyle', 'ISO, YMD', true),
       set_config('bytea_output', 'hex', true), set_config('statement_timeout', '0', true),
       set_config('idle_in_transaction_session_timeout', '0', true),
       (select set_config(name, '0', true) from pg_settings where name = 'transaction_timeout')  -- from PostgreSQL 17 on
