-- The settings of the server that decide what a crash loses, and whether dead rows go.
--
-- Run by: `ringonce doctor`. Index: none. Locks: nothing.
select current_setting('fsync') as fsync, current_setting('full_page_writes') as full_page_writes,
       current_setting('synchronous_commit') as synchronous_commit,
       (select source from pg_settings where name = 'synchronous_commit') as synchronous_commit_from,
       current_setting('autovacuum') as autovacuum, current_setting('track_counts') as track_counts
