-- Legal holds, and retention that waits for exports.
--
-- Works with workers from: 1
-- Locks: operation (exclusive), attempt (share row exclusive), account (share row exclusive), action (share row exclusive)

begin;

-- In this mode, and first: who has locked an operation's row goes ahead, and who has not waits with nothing in its hands.
lock table outbox.operation in exclusive mode;
lock table outbox.attempt, outbox.account, outbox.action in share row exclusive mode;

comment on column outbox.action.name is 'The function: cancel, retry, reissue, resolve, pause, resume, retire, hold, release, export, require_export, doubt_history, adopt_history,
confirm_history';

create table outbox.legal_hold (
    id            bigint generated always as identity primary key,
    operation_id  bigint unique references outbox.operation (id),
    account       text collate "C" references outbox.account (name) on update cascade,
    lane          text collate "C",
    action_id     bigint not null references outbox.action (id),
    constraint legal_hold_is_of_one_kind check ((operation_id is null) <> (account is null and lane is null))
);
comment on table outbox.legal_hold is
    'What is neither scrubbed nor deleted, whoever tries: an operation, or all that an account or a lane has and will have. A row goes when its hold is lifted; the audit stays';
comment on column outbox.legal_hold.id is 'Number of the hold';
comment on column outbox.legal_hold.operation_id is 'The operation; null: the account, the lane, or the lane of the account as a whole';
comment on column outbox.legal_hold.account is 'The account; null: of any';
comment on column outbox.legal_hold.lane is 'The lane; null: all';
comment on column outbox.legal_hold.action_id is 'The action that tells who holds it, why and since when';
create unique index legal_hold_of_scope on outbox.legal_hold (account, lane) nulls not distinct where operation_id is null;

create table outbox.retention (
    only_row        boolean primary key default true check (only_row),
    only_exported   boolean not null default false,
    exported_until  timestamptz check (outbox.is_plausible(exported_until)),
    scrub_from      timestamptz,
    purge_from      timestamptz
);
comment on table outbox.retention is 'What retention waits for, and where it goes on; one row. How long anything is kept is a setting of the workers';
comment on column outbox.retention.only_row is 'There is one row';
comment on column outbox.retention.only_exported is 'Nothing is scrubbed or deleted that was not exported (outbox.require_export)';
comment on column outbox.retention.exported_until is 'Whatever became final before this has been exported (outbox.note_export); null: nothing';
comment on column outbox.retention.scrub_from is 'All that has its payload and became final before this is under a legal hold: scrub() does not walk over it again; null: not known';
comment on column outbox.retention.purge_from is 'The same of what was scrubbed, and of purge()';
insert into outbox.retention default values;

create function outbox.is_held(operation_id bigint, account text, lane text) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select exists (select from outbox.legal_hold h where h.operation_id = is_held.operation_id)
        or exists (select from outbox.legal_hold h
                    where h.operation_id is null and (h.account is null or h.account = is_held.account) and (h.lane is null or h.lane = is_held.lane))
$$;
comment on function outbox.is_held is 'Whether an operation is under a legal hold: itself, or with its account or its lane';

create function outbox.see_holds() returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    -- Whoever places a hold just now waits until this is over; what was held before is seen from here on.
    perform pg_advisory_xact_lock_shared(74646623, 2);
    -- But not under an older snapshot. The size of the table tells of holds that it does not show, and stands in nobody's way where there never was one.
    if current_setting('transaction_isolation') <> 'read committed' and pg_relation_size('outbox.legal_hold') > 0 then
        raise exception 'what is lost by this may be under a legal hold, which an older snapshot does not show: use READ COMMITTED' using errcode = '25001';
    end if;
end $$;
comment on function outbox.see_holds is 'Has the next statement see every legal hold, and none be placed until the transaction ends; raises where a snapshot may be older than a hold';

create function outbox.operation_is_kept() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.see_holds();
    if outbox.is_held(old.id, old.account, old.lane) then
        raise exception 'operation % is under a legal hold: what is on record stays', old.id using errcode = 'RO013',
            hint = 'outbox.held tells why. outbox.release(id, reason), or release_all(account, lane, reason), lifts it; outbox.reissue() keeps the record.';
    end if;
    if (tg_op = 'DELETE' or new.payload is null) and exists (
        select from outbox.retention r where r.only_exported and old.finished_at >= coalesce(r.exported_until, '-infinity')) then
        raise exception 'operation % was not exported yet', old.id using errcode = 'RO013',
            hint = 'Use `ringonce export` first; or outbox.require_export(false, reason).';
    end if;
    return case when tg_op = 'DELETE' then old else new end;
end $$;
comment on function outbox.operation_is_kept is
    'Trigger: what is under a legal hold, or is to be exported first, is neither deleted nor loses what it says; a retry would lose the answer';
create trigger operation_is_kept before delete on outbox.operation for each row execute function outbox.operation_is_kept();
create trigger operation_keeps_what_it_says before update of payload, response_headers, response_body on outbox.operation
    for each row when (old.finished_at is not null and ((old.payload is not null and new.payload is null)
        or (old.response_headers is not null and new.response_headers is null) or (old.response_body is not null and new.response_body is null)))
    execute function outbox.operation_is_kept();

create function outbox.attempt_is_kept() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.see_holds();
    if (select outbox.is_held(o.id, o.account, o.lane) from outbox.operation o where o.id = old.operation_id) then
        raise exception 'attempt % of operation % is under a legal hold: what is on record stays', old.number, old.operation_id using errcode = 'RO013';
    end if;
    return new;
end $$;
comment on function outbox.attempt_is_kept is 'Trigger: a late answer is evidence, and stays while its operation is under a legal hold';
create trigger attempt_is_kept before update of late_body on outbox.attempt
    for each row when (old.late_body is not null and new.late_body is null) execute function outbox.attempt_is_kept();

create function outbox.retires_after(keep interval) returns interval
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    -- Law 10: days and months as exact seconds. Taken from a date, '1 mon -28 days' may be nothing at all, and compares as two days.
    lasts constant interval := make_interval(secs => extract(epoch from keep)::double precision);
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'retention looks for holds under a fresh snapshot: use READ COMMITTED' using errcode = '25001';
    end if;
    if (lasts > (select max(key_ttl) from outbox.endpoint)) is not true then
        raise exception 'retention of % is not longer than the longest key_ttl', keep using errcode = 'RO009';
    end if;
    if outbox.why_shut() is not null or not pg_try_advisory_xact_lock_shared(74646623, 2) then
        return null;  -- a hold may have been lost with other commits, or is being placed: this pass is left out
    end if;
    return lasts;
end $$;
comment on function outbox.retires_after is
    'Keeps holds from being placed until the transaction ends, and returns keep in exact seconds. Null: nothing may be scrubbed or deleted now. Raises unless keep is longer than any key lives';

create function outbox.old_enough(scrubbed boolean, keep interval, max_count integer, patience interval) returns bigint[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
    lasts constant interval := outbox.retires_after(keep);
    rule outbox.retention;
    until timestamptz;
    ids bigint[];
begin
    if lasts is null then
        return null;
    end if;
    select r.* into rule from outbox.retention r;
    until := least(clock_timestamp() - lasts, case when rule.only_exported then coalesce(rule.exported_until, '-infinity') end);
    if exists (select from outbox.legal_hold) then
        return outbox.old_and_free(scrubbed, until, max_count, patience, rule);
    elsif scrubbed then
        select array_agg(old.id) into ids from (
            select o.id from outbox.operation o
             where o.finished_at is not null and o.payload is null and o.finished_at < until
             order by o.finished_at limit max_count for update skip locked) as old;
    else
        select array_agg(old.id) into ids from (
            select o.id from outbox.operation o
             where o.finished_at is not null and o.payload is not null and o.finished_at < until
             order by o.finished_at limit max_count for no key update skip locked) as old;
    end if;
    return ids;
end $$;
comment on function outbox.old_enough is
    'Locks up to max_count operations that have been final for longer than keep, scrubbed ones or the others, the oldest first, and returns them; null: none. What others hold, what
is under a legal hold and, if so required, what was not exported it passes by. It walks for no longer than about patience over what is held';

create function outbox.old_and_free(scrubbed boolean, until timestamptz, max_count integer, patience interval, rule outbox.retention) returns bigint[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
    started_at constant timestamptz := clock_timestamp();
    since constant timestamptz := coalesce(case when scrubbed then rule.purge_from else rule.scrub_from end, '-infinity');
    -- What has its payload still, and is free, may be scrubbed meanwhile: purge() must walk over its place again.
    latest_mark constant timestamptz := case when scrubbed then coalesce(rule.scrub_from, (
        select o.finished_at from outbox.operation o where o.finished_at is not null and o.payload is not null order by o.finished_at limit 1)) end;
    walk refcursor;
    met record;
    fits boolean;
    ids bigint[];
    mark timestamptz := since;
    met_free boolean := false;
    met_count integer := 0;
begin
    if scrubbed then
        open walk no scroll for
            select o.id, o.finished_at, outbox.is_held(o.id, o.account, o.lane) as held from outbox.operation o
             where o.finished_at is not null and o.payload is null and o.finished_at >= since and o.finished_at < until order by o.finished_at;
    else
        open walk no scroll for
            select o.id, o.finished_at, outbox.is_held(o.id, o.account, o.lane) as held from outbox.operation o
             where o.finished_at is not null and o.payload is not null and o.finished_at >= since and o.finished_at < until order by o.finished_at;
    end if;
    loop
        fetch walk into met;
        exit when not found;
        met_count := met_count + 1;
        exit when met_count % 500 = 0 and clock_timestamp() > started_at + patience;
        if met.held then
            mark := case when met_free then mark else met.finished_at end;
            continue;
        end if;
        met_free := true;
        -- By its number alone: with what else has to be so, the plan may be to walk over all that is as old, for each one.
        if scrubbed then
            select o.payload is null and o.finished_at < until into fits from outbox.operation o where o.id = met.id for update skip locked;
        else
            select o.payload is not null and o.finished_at < until into fits from outbox.operation o where o.id = met.id for no key update skip locked;
        end if;
        ids := case when fits then ids || met.id else ids end;
        exit when cardinality(ids) >= max_count;
    end loop;
    close walk;
    mark := least(mark, latest_mark);
    if mark > since then
        perform from outbox.retention for update skip locked;
        update outbox.retention r
           set scrub_from = case when scrubbed then r.scrub_from else mark end, purge_from = case when scrubbed then mark else r.purge_from end
         where found;
    end if;
    return ids;
end $$;
comment on function outbox.old_and_free is
    'The same where there are legal holds: walks over what is held one by one, and remembers how far all was, so that the next pass begins there';

drop function outbox.scrub(interval, integer);
create function outbox.scrub(keep interval, max_count integer, patience interval default '00:00:02') returns integer
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    ids constant bigint[] := outbox.old_enough(false, scrub.keep, scrub.max_count, scrub.patience);
    scrubbed integer;
begin
    update outbox.attempt a set late_body = null where a.operation_id = any (ids) and a.late_body is not null;
    update outbox.operation o set payload = null, response_headers = null, response_body = null
     where o.id = any (ids);  -- an array: a join may be planned over the whole table
    get diagnostics scrubbed = row_count;
    return scrubbed;
end $$;
comment on function outbox.scrub is
    'Takes payloads and answers, which hold phone numbers, from operations that have been final for longer than keep; hash, key and attempts stay. What is under a legal hold stays
as it is; patience is how long it may walk over that. Returns how many';

drop function outbox.purge(interval, integer);
create function outbox.purge(keep interval, max_count integer, patience interval default '00:00:02') returns integer
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    ids constant bigint[] := outbox.old_enough(true, purge.keep, purge.max_count, purge.patience);
    until constant timestamptz := clock_timestamp() - make_interval(secs => extract(epoch from keep)::double precision);
    purged integer;
begin
    delete from outbox.operation o where o.id = any (ids);
    get diagnostics purged = row_count;
    if outbox.why_shut() is null then
        delete from outbox.announcement a
         where a.id = any (array(
               select n.id from outbox.announcement n where n.next_attempt_at < until
                order by n.next_attempt_at limit max_count for update skip locked));
    end if;
    return purged;
end $$;
comment on function outbox.purge is
    'Deletes scrubbed operations, with their attempts, that have been final for longer than keep. Unresolved ones stay, and what is under a legal hold; patience is how long it may
walk over that. Returns how many. Announcements that nobody has tried to send for as long go, too';

create or replace function outbox.retire(
    scrub_after interval, purge_after interval, max_count integer, reason text, out scrubbed_count integer, out purged_count integer)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.need_reason(retire.reason);
    perform outbox.refuse_when_shut();
    perform pg_advisory_xact_lock_shared(74646623, 2);  -- a person waits for a hold that is being placed; upkeep would leave this pass out
    scrubbed_count := outbox.scrub(retire.scrub_after, retire.max_count, interval '10 seconds');
    purged_count := outbox.purge(retire.purge_after, retire.max_count, interval '10 seconds');
    if scrubbed_count + purged_count > 0 then
        insert into outbox.action (name, reason, detail)
        values ('retire', retire.reason, jsonb_build_object('scrubbed', scrubbed_count, 'purged', purged_count));
    end if;
end $$;
comment on function outbox.retire is
    'Does now what upkeep does in time: scrubs what has been final for longer than scrub_after, deletes what has been for longer than purge_after; up to
max_count of each. Returns how many';

create function outbox.keep_retention_out() returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_advisory_xact_lock(74646623, 2);
end $$;
comment on function outbox.keep_retention_out is 'Waits for what is being scrubbed and deleted, and keeps retention out until the transaction ends';

create function outbox.hold(id bigint, reason text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    o outbox.operation;
begin
    perform outbox.need_reason(hold.reason);
    perform outbox.keep_retention_out();
    select u.* into o from outbox.operation u where u.id = hold.id;
    if not found then
        raise exception 'there is no operation %', hold.id using errcode = 'RO008';
    elsif exists (select from outbox.legal_hold h where h.operation_id = o.id) then
        raise exception 'operation % is under a legal hold already', o.id using errcode = 'RO009', hint = 'outbox.held tells whose, and why.';
    end if;
    insert into outbox.legal_hold (operation_id, action_id) values (o.id, outbox.acted('hold', o, hold.reason, '{}'));
end $$;
comment on function outbox.hold is
    'Puts an operation under a legal hold, whatever its state: nobody scrubs or deletes it until outbox.release(). It is sent, recorded and settled as before';

create function outbox.release(id bigint, reason text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    o outbox.operation;
begin
    perform outbox.need_reason(release.reason);
    perform outbox.keep_retention_out();
    select u.* into o from outbox.operation u where u.id = release.id;
    if not found then
        raise exception 'there is no operation %', release.id using errcode = 'RO008';
    end if;
    delete from outbox.legal_hold h where h.operation_id = o.id;
    if not found then
        raise exception 'operation % is under no legal hold of its own', o.id using errcode = 'RO009',
            hint = case when outbox.is_held(o.id, o.account, o.lane) then 'Its account or its lane is: outbox.release_all(account, lane, reason).'
                        else 'There is nothing to lift.' end;
    end if;
    perform outbox.acted('release', o, release.reason, '{}');
    perform outbox.retire_from_the_start();
end $$;
comment on function outbox.release is 'Lifts the legal hold of an operation. What is old enough goes with the next pass, unless its account or its lane is held';

create function outbox.hold_all(account text, lane text, reason text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    noted bigint;
begin
    perform outbox.need_scope(hold_all.account, hold_all.lane, hold_all.reason);
    if exists (select from outbox.legal_hold h where h.operation_id is null and h.account is not distinct from hold_all.account
                                                 and h.lane is not distinct from hold_all.lane) then
        raise exception '% is under a legal hold already', outbox.scope(hold_all.account, hold_all.lane) using errcode = 'RO009',
            hint = 'outbox.held tells whose, and why.';
    end if;
    insert into outbox.action (name, account, reason, detail)
    values ('hold', hold_all.account, hold_all.reason, jsonb_build_object('lane', hold_all.lane)) returning id into noted;
    insert into outbox.legal_hold (account, lane, action_id) values (hold_all.account, hold_all.lane, noted);
end $$;
comment on function outbox.hold_all is
    'Puts all that an account has and will have under a legal hold; or a lane, of one account or of any (account NULL): nobody scrubs or deletes it until outbox.release_all()';

create function outbox.release_all(account text, lane text, reason text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.need_scope(release_all.account, release_all.lane, release_all.reason);
    delete from outbox.legal_hold h
     where h.operation_id is null and h.account is not distinct from release_all.account and h.lane is not distinct from release_all.lane;
    if not found then
        raise exception '% is under no legal hold', outbox.scope(release_all.account, release_all.lane) using errcode = 'RO009',
            hint = 'outbox.held tells what is: name account and lane as the hold does.';
    end if;
    insert into outbox.action (name, account, reason, detail)
    values ('release', release_all.account, release_all.reason, jsonb_build_object('lane', release_all.lane));
    perform outbox.retire_from_the_start();
end $$;
comment on function outbox.release_all is 'Lifts the legal hold of an account, of a lane, or of a lane of an account. Operations that are held by themselves stay so';

create function outbox.scope(account text, lane text) returns text
    language sql stable set search_path = pg_catalog, pg_temp
    return concat_ws(' of ', 'lane ' || quote_literal(lane), 'account ' || quote_literal(account));
comment on function outbox.scope is 'What a hold of an account, a lane, or both is called in an error';

create function outbox.need_scope(account text, lane text, reason text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.need_reason(need_scope.reason);
    if need_scope.account is null and need_scope.lane is null then
        raise exception 'a hold is of an account, of a lane, or of a lane of an account' using errcode = 'RO009';
    elsif need_scope.account is not null and not exists (select from outbox.account a where a.name = need_scope.account) then
        raise exception 'there is no account %', quote_literal(need_scope.account) using errcode = 'RO002';
    end if;
    perform outbox.keep_retention_out();
end $$;
comment on function outbox.need_scope is 'Raises when there is no such account, neither account nor lane, or no reason; else keeps retention out';

create function outbox.retire_from_the_start() returns void
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    update outbox.retention r set scrub_from = null, purge_from = null where r.scrub_from is not null or r.purge_from is not null
$$;
comment on function outbox.retire_from_the_start is 'Has retention walk over all again: something is held no longer';

create function outbox.require_export(required boolean, reason text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.need_reason(require_export.reason);
    perform outbox.keep_retention_out();
    update outbox.retention r set only_exported = coalesce(require_export.required, false);
    insert into outbox.action (name, reason, detail)
    values ('require_export', require_export.reason, jsonb_build_object('required', coalesce(require_export.required, false)));
end $$;
comment on function outbox.require_export is 'Whether retention takes only what has been exported (outbox.note_export): if so, nobody scrubs or deletes anything else';

create function outbox.note_export(since timestamptz, until timestamptz, reason text, detail jsonb) returns timestamptz
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.need_reason(note_export.reason);
    if note_export.until is null or not outbox.is_plausible(note_export.until) or note_export.until > clock_timestamp() then
        raise exception 'an export ends at a time that has passed, not at %', note_export.until using errcode = 'RO006';
    end if;
    update outbox.retention r set exported_until = note_export.until
     where coalesce(r.exported_until, '-infinity') >= coalesce(note_export.since, '-infinity')
       and coalesce(r.exported_until, '-infinity') < note_export.until;
    if found then
        insert into outbox.action (name, reason, detail)
        values ('export', note_export.reason,
                coalesce(note_export.detail, '{}') || jsonb_build_object('since', note_export.since, 'until', note_export.until));
    end if;
    return (select r.exported_until from outbox.retention r);
end $$;
comment on function outbox.note_export is
    'Notes that whatever became final from since (null: ever) to before until has been exported, if that leaves no gap behind what was before. Returns until when all has been';

create view outbox.held as
    select h.operation_id, h.account, h.lane, a.reason, a.acted_by || coalesce(' for ' || a.acted_for, '') as held_by, a.acted_at as held_at
      from outbox.legal_hold h join outbox.action a on a.id = h.action_id;
comment on view outbox.held is 'What is under a legal hold, and so neither scrubbed nor deleted: since when, by whom and why';
comment on column outbox.held.operation_id is 'The operation; null: an account, a lane, or a lane of an account, as a whole';
comment on column outbox.held.account is 'The account that is held; null: of any';
comment on column outbox.held.lane is 'The lane that is held; null: all';
comment on column outbox.held.reason is 'Why, in the administrator''s words';
comment on column outbox.held.held_by is 'Who placed the hold';
comment on column outbox.held.held_at is 'When';

revoke all on table outbox.legal_hold, outbox.retention, outbox.held from public;
revoke all on function outbox.is_held, outbox.see_holds, outbox.operation_is_kept, outbox.attempt_is_kept, outbox.retires_after, outbox.old_enough,
    outbox.old_and_free, outbox.scrub, outbox.purge, outbox.keep_retention_out, outbox.hold, outbox.release, outbox.hold_all, outbox.release_all, outbox.scope, outbox.need_scope,
    outbox.retire_from_the_start, outbox.require_export, outbox.note_export from public;
grant execute on function outbox.scrub, outbox.purge to outbox_worker;
grant select on outbox.held, outbox.legal_hold, outbox.retention to outbox_reader, outbox_admin;
grant execute on function outbox.is_held to outbox_reader, outbox_admin;
grant execute on function outbox.hold, outbox.release, outbox.hold_all, outbox.release_all, outbox.require_export, outbox.note_export to outbox_admin;

insert into outbox.schema_version (version, compatible_from) values (3, 1);

commit;
