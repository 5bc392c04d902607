-- What there is once: proofs of double execution, whether claims are shut, and the age of the longest
-- transaction that keeps Postgres from removing dead rows of this database.
--
-- That age is null unless the user may see other people's sessions (pg_read_all_stats), for it would tell
-- of its own only.
-- Run by: `ringonce metrics`, at each scrape. Index: attempt_in_conflict, delivery_that_disagrees,
-- delivery_pkey. Locks: nothing.
select (select count(*) from outbox.conflict) as conflict_count,
       exists (select from outbox.shut) as shut,
       case when pg_has_role(current_user, 'pg_read_all_stats', 'usage') then coalesce(
           (select extract(epoch from clock_timestamp() - min(since))::double precision
            from (select xact_start from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()
                    and (backend_xid is not null or backend_xmin is not null)
                  union all
                  select prepared from pg_prepared_xacts where database = current_database()) as t (since)), 0)
       end as oldest_transaction_seconds
