-- What ends a statement, a transaction or a session of whoever asks: in seconds, 0 for never.
--
-- Run by: `ringonce doctor`. Index: none, the server's settings. Locks: nothing.
select name, extract(epoch from reset_val::bigint * interval '1 ms')::float8 as seconds from pg_settings
where name in ('statement_timeout', 'transaction_timeout', 'idle_session_timeout')
order by name
