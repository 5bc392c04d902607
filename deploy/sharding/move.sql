-- Moves everything under one APP ID from this outbox into another one: accounts, operations with their keys, attempts, answers.
--
--     export SOURCE=postgresql://… TARGET=postgresql://…
--     psql "$SOURCE" -v app_id=5f2c0a7e… -f deploy/sharding/move.sql
--
-- "Moving an account" in deploy/CAPACITY.md says what comes before and after. All its accounts have to be paused here; they
-- arrive paused. In one transaction of this database: lock, look, copy, and, once the other database says that it has committed
-- what it compared with what was sent, delete. Whatever fails, the rows are here, or there, or (paused in both) here and there,
-- and can be claimed in neither. As superuser of both, or as the owner of the tables with the right to set session_replication_role.

\set ON_ERROR_STOP on
\set QUIET on
\set moving on
\pset tuples_only on
\pset format unaligned
begin;
\ir rows.sql

do $$
declare
    wanted text := current_setting('moving.app_id');
    odd text;
    last timestamptz;
begin
    if outbox.why_shut() is not null then
        raise exception 'claims are shut here, so nobody knows what was sent: %', outbox.why_shut();
    end if;
    select o.id into odd from outbox.operation o where o.app_id = wanted
       and (o.state = 'in_flight' or exists (select from outbox.attempt a where a.operation_id = o.id and a.verdict is null)) limit 1;
    if found then
        raise exception 'operation % is in flight', odd using hint = 'Wait until its call has ended, or its lease was taken back.';
    end if;
    select max(o.settles_at) into last from outbox.operation o where o.app_id = wanted;
    if last > clock_timestamp() then
        raise exception 'the API may be busy until %', last using hint = 'Wait for that: by another database''s clock it could be shorter (laws 4 and 10).';
    end if;
end $$;

insert into outbox.action (name, account, reason, detail)
select 'move', name, 'moved to another outbox', jsonb_build_object('app_id', app_id) from outbox.account where app_id = :'app_id';
select max(id) as action from outbox.action where name = 'move' and transaction = pg_current_xact_id() \gset

-- A count and a sum of hashes of each table; there, of the audit only what has just arrived.
select string_agg(format(hashed, place, name, columns, name, mine), ' union all ' order by place) as tables,
       string_agg(format(hashed, place, name, columns, name, case name when 'action' then 'id in (select id from arrived)' else mine end),
                  ' union all ' order by place) as tables_there
  from moving cross join (values (
       'select %s as place, %L as name, count(*), sum((''x'' || left(md5(r::text), 16))::bit(64)::bigint::numeric)'
       ' from (select %s from outbox.%I where %s) as r')) as form (hashed) \gset
select string_agg(p::text, ' ' order by place) as proof from (:tables) as p \gset
select (select max(version) from outbox.schema_version) as version,
       coalesce(jsonb_agg(to_jsonb(e) - 'revision' order by e.name), '[]') as endpoints
  from outbox.endpoint e where e.name in (select o.endpoint from outbox.operation o where o.app_id = :'app_id') \gset
select r.only_exported, coalesce(r.exported_until, '-infinity') as exported_until,
       (select coalesce(jsonb_agg(h.lane), '[]') from outbox.legal_hold h where h.operation_id is null and h.account is null) as held_lanes
  from outbox.retention r \gset

-- The copy: a script, as pg_dump would write one, that is run there while it is written here. Cut short, it commits nothing.
\o | psql -X -q -A -t -v ON_ERROR_STOP=1 "$TARGET"
select format($script$
begin;
set local session_replication_role = replica;
set local timezone = 'UTC';
set local datestyle = 'ISO';
set local intervalstyle = 'postgres';
set local bytea_output = 'hex';
do $checks$
begin
    if (select max(version) from outbox.schema_version) <> %1$L then
        raise exception 'the other outbox has another version of the schema';
    elsif exists (select from outbox.operation where app_id = %2$L) or exists (select from outbox.account where app_id = %2$L) then
        raise exception 'the other outbox has this APP ID already';
    elsif abs(extract(epoch from clock_timestamp() - %3$L::timestamptz)) > 5 then
        raise exception 'the clocks of the two databases differ';  -- law 10: the times that move are judged by the other clock
    elsif (select coalesce(jsonb_agg(to_jsonb(e) - 'revision' order by e.name), '[]') from outbox.endpoint e
            where e.name in (select s ->> 'name' from jsonb_array_elements(%4$L::jsonb) as s)) <> %4$L::jsonb then
        raise exception 'the other outbox has other endpoints';
    elsif exists (select from jsonb_array_elements_text(%6$L::jsonb) as held (lane)
                   where not exists (select from outbox.legal_hold h where h.operation_id is null and h.account is null and h.lane = held.lane)) then
        raise exception 'a lane is under a legal hold here, and not in the other outbox' using hint = 'Hold it there: outbox.hold_all(null, lane, reason).';
    elsif (select r.only_exported from outbox.retention r) <> %7$L::boolean then
        raise exception 'one of the two outboxes forgets what was not exported' using hint = 'outbox.require_export(required, reason) in both.';
    elsif %7$L::boolean and (select r.exported_until from outbox.retention r) > %8$L::timestamptz then
        raise exception 'the other outbox takes all until later for exported' using hint = 'Export here first, until then or later.';
    end if;
end $checks$;
create temporary table arrived on commit drop as select %5$s from outbox.action limit 0;
$script$, :'version', :'app_id', clock_timestamp(), :'endpoints', columns, :'held_lanes', :'only_exported', :'exported_until') from moving where name = 'action';
select format('select %L', format('copy %s (%s) from stdin;', case name when 'action' then 'arrived' else 'outbox.' || quote_ident(name) end, columns)),
       format('copy (select %s from outbox.%I where %s) to stdout', columns, name, mine),
       $$select '\.'$$
  from moving order by place
\gexec
-- Of the audit, some may be there already: it stays wherever it was, when the account goes.
select format('insert into outbox.action (%1$s) overriding system value select %1$s from arrived where id not in (select id from outbox.action);', columns)
  from moving where name = 'action';
select format($script$
do $proof$
begin
    if (select string_agg(p::text, ' ' order by place) from (%s) as p) is distinct from %L then
        raise exception 'what arrived is not what was sent';
    end if;
end $proof$;
do $marks$
begin
    perform outbox.keep_retention_out();  -- a pass that has begun would write what it remembers once more
    perform outbox.retire_from_the_start();  -- what it remembers to be held may not be all that is as old
end $marks$;
commit;
$script$, :'tables_there', :'proof');
\o

\set arrived `psql -X -q -A -t -v ON_ERROR_STOP=1 "$TARGET" -c "select exists (select from outbox.action where id = :action and name = 'move')"`
\if :arrived
    \ir forget.sql
    commit;
    \echo moved
\else
    rollback;
    do $$ begin raise exception 'nothing has left: the other outbox did not take it, or does not answer'; end $$;
\endif
