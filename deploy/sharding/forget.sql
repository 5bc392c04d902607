-- Takes everything under one APP ID out of this outbox, keys and all. ONLY what stands in another outbox may go this way.
--
--     psql "$URL" -1 -v app_id=5f2c0a7e… -f deploy/sharding/forget.sql
--
-- By hand it is for two cases (see "Moving an account" in deploy/CAPACITY.md): a move that was cut off after its copy had arrived, and
-- a restored backup that is older than the move, before its history is adopted. All accounts of the APP ID have to be paused.
-- As superuser, or as the owner of the tables with the right to set session_replication_role.

\set ON_ERROR_STOP on
\if :{?moving} \else
    \ir rows.sql
\endif

set local session_replication_role = replica;  -- operation_is_not_lost would keep what is not final, and rightly so anywhere else
select format('delete from outbox.%I where %s', name, mine) from moving where name not in ('account', 'action')
 order by name = 'operation', name = 'attempt', place
\gexec
set local session_replication_role = origin;
delete from outbox.account where app_id = :'app_id';  -- with its foreign keys checked: nothing of it may be left
