-- What belongs to the accounts of one APP ID, table by table, in the temporary table "moving". Included by move.sql and forget.sql.
--
-- Read by neither: outbox.finished_count and outbox.attempt_count stay (what ended here is counted here, so that the sum over all
-- outboxes is right), and so does outbox.action (the audit only grows; what is in it moves as a copy).

set local timezone = 'UTC';
set local datestyle = 'ISO';
set local intervalstyle = 'postgres';
set local bytea_output = 'hex';
set local lock_timeout = '30s';
select set_config('moving.app_id', :'app_id', true) as nothing \gset

create temporary table moving on commit drop as
select place, name, mine,
       (select string_agg(quote_ident(a.attname), ', ' order by a.attname) from pg_attribute a
         where a.attrelid = ('outbox.' || name)::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
           and (name, a.attname) <> ('action', 'transaction')) as columns  -- which means nothing in another database
  from (values (1, 'account', 'app_id = %1$L'),
               (2, 'account_meter', 'account in (select name from outbox.account where app_id = %1$L)'),
               (3, 'throttle', 'account in (select name from outbox.account where app_id = %1$L)'),
               (4, 'suspicion', 'account in (select name from outbox.account where app_id = %1$L)'),
               (5, 'webhook_source', 'account in (select name from outbox.account where app_id = %1$L)'),
               (6, 'webhook', 'account in (select name from outbox.account where app_id = %1$L)'),
               (7, 'legal_hold', '(account in (select name from outbox.account where app_id = %1$L)'
                                 ' or operation_id in (select id from outbox.operation where app_id = %1$L))'),
               (8, 'action', '(account in (select name from outbox.account where app_id = %1$L)'
                             ' or operation_id in (select id from outbox.operation where app_id = %1$L))'),
               (9, 'announcement', 'operation_id in (select id from outbox.operation where app_id = %1$L)'),
               (10, 'delivery', 'operation_id in (select id from outbox.operation where app_id = %1$L)'),
               (11, 'silence', 'operation_id in (select id from outbox.operation where app_id = %1$L)'),
               (12, 'attempt', 'operation_id in (select id from outbox.operation where app_id = %1$L)'),
               (13, 'operation', 'app_id = %1$L')) as listed (place, name, pattern)
 cross join lateral format(pattern, current_setting('moving.app_id')) as mine;

-- Nobody writes it from here on. The lock on the accounts is the door: each enqueue takes a share of it (by its foreign key), and so does
-- each webhook and each hold, so this waits for the transactions that have, and whoever comes now waits for this. Upkeep passes
-- locked rows by; webhooks are matched, and missed, by one session at a time, which is this one for now.
do $$
begin
    perform outbox.keep_retention_out();  -- it would delete webhooks under the copy; and a hold that is placed now on a lane of any account would stay behind
    perform pg_advisory_xact_lock(hashtextextended('ringonce: webhooks', 0));
    perform from outbox.webhook_source s join outbox.account a on a.name = s.account
      where a.app_id = current_setting('moving.app_id') order by s.account, s.endpoint for update of s;
    perform from outbox.account a where a.app_id = current_setting('moving.app_id') order by a.name for update;
    if not found then
        raise exception 'no account has the APP ID %', current_setting('moving.app_id');
    end if;
    perform from outbox.operation o where o.app_id = current_setting('moving.app_id') order by o.id for update;
    perform from outbox.announcement n join outbox.operation o on o.id = n.operation_id
      where o.app_id = current_setting('moving.app_id') order by n.id for update of n;
    perform from outbox.legal_hold h where h.account in (select a.name from outbox.account a where a.app_id = current_setting('moving.app_id'))
         or h.operation_id in (select o.id from outbox.operation o where o.app_id = current_setting('moving.app_id')) order by h.id for update;
end $$;

do $$
declare
    odd text;
begin
    select name into odd from outbox.account where app_id = current_setting('moving.app_id') and paused_at is null limit 1;
    if found then
        raise exception 'account % is not paused', odd using hint = 'Pause every account of the APP ID first: outbox.pause(account, reason).';
    end if;
end $$;
