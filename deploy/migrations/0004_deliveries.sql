-- Webhooks: what the provider tells is kept, leads to its operation, settles what it proves, and is missed where it was due.
--
-- Works with workers from: 1
-- Locks: operation (exclusive), retention (access exclusive), endpoint (share row exclusive), conflict (access exclusive)

begin;

lock table outbox.operation in exclusive mode;
lock table outbox.retention in access exclusive mode;
lock table outbox.endpoint in share row exclusive mode;

do $$
begin
    if not exists (select from pg_roles where rolname = 'outbox_receiver') then
        create role outbox_receiver nologin;
    end if;
exception when duplicate_object or unique_violation then
    null;  -- another database of this cluster made it just now
end $$;

-- Deliveries: what the provider's webhooks tell of operations -----------------------------------------------------------
-- receive() keeps a webhook as it came, and is all that its sender waits for. correlate() finds out soon after, and again
-- for as long as nothing fits, which operation it speaks of: by the provider's id, or by a key in it. Every order of the
-- same webhooks leads to the same rows, and so does every repetition. Evidence goes one way: a webhook can prove that an
-- operation was executed, and none that came, or did not come, proves that it was not (law 9).

create type outbox.delivery_state as enum ('unknown', 'queued', 'sent', 'ringing', 'answered', 'delivered', 'read', 'ended', 'failed');
comment on type outbox.delivery_state is
    'How far a call or a message came, in the order that it goes. unknown: a word that ringonce does not know. ended: a call is over. failed: it did not arrive';

create table outbox.webhook (
    id            bigint generated always as identity primary key,
    account       text collate "C" not null,
    digest        bytea not null constraint webhook_digest_is_sha256 check (octet_length(digest) = 32),
    received_at   timestamptz not null default clock_timestamp(),
    headers       jsonb not null constraint webhook_headers_are_a_list check (jsonb_typeof(headers) = 'array'),
    body          bytea not null constraint webhook_body_is_bounded check (octet_length(body) <= 262144),
    reports       jsonb not null constraint webhook_reports_are_a_list check (jsonb_typeof(reports) = 'array'),
    next_look_at  timestamptz default clock_timestamp(),
    problem       text constraint webhook_problem_is_a_line check (octet_length(problem) <= 4000),
    constraint webhook_comes_once unique (digest, account)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
comment on table outbox.webhook is 'What providers told by webhook, each once, as it came. Deleted after the retention, for it holds phone numbers';
comment on column outbox.webhook.id is 'Number of the webhook';
comment on column outbox.webhook.account is 'The account whose secret its sender knew; it can speak of no other account''s operations';
comment on column outbox.webhook.digest is 'SHA-256 of the event''s id with what was read, if it has one, else of the body: the same again is not kept again';
comment on column outbox.webhook.received_at is 'When it came';
comment on column outbox.webhook.headers is 'Its headers, in order: [[name, value], ...], each byte one character (Latin-1); without the value of what may hold a secret';
comment on column outbox.webhook.body is 'Its body, byte for byte';
comment on column outbox.webhook.reports is 'What was read in it: [{ids, keys, recipient, state, status, told_at}, ...]';
comment on column outbox.webhook.next_look_at is 'When to look again for the operations that it speaks of; null: all are found, or the search was given up';
comment on column outbox.webhook.problem is 'Why it could not be made use of, or why the search was given up';
create index webhook_to_match on outbox.webhook (next_look_at) where next_look_at is not null;
create index webhook_in_trouble on outbox.webhook (id) where problem <> 'no operation fits';  -- which is usual where others send as well
create index webhook_to_forget on outbox.webhook (received_at);

create table outbox.delivery (
    operation_id    bigint not null references outbox.operation (id) on delete cascade,
    provider_id     text collate "C" not null default '' constraint delivery_provider_id_is_bounded check (char_length(provider_id) <= 255),
    recipient       text collate "C" not null default '' constraint delivery_recipient_is_bounded check (char_length(recipient) <= 100),
    state           outbox.delivery_state not null,
    status          text collate "C" not null constraint delivery_status_is_bounded check (char_length(status) <= 100),
    told_at         timestamptz constraint delivery_time_is_plausible check (outbox.is_plausible(told_at)),
    webhook_id      bigint not null,  -- refers to nothing: a webhook is deleted before its delivery
    first_at        timestamptz not null default clock_timestamp(),
    changed_at      timestamptz not null default clock_timestamp(),
    evidence        boolean not null,
    agrees          boolean,
    next_look_at    timestamptz default clock_timestamp(),
    recipient_hint  text generated always as (case when char_length(recipient) > 2 then '•••' || right(recipient, 2) else recipient end) stored,
    primary key (operation_id, provider_id, recipient)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
comment on table outbox.delivery is 'How far each recipient of an operation was reached, as the latest webhook (by the provider''s time) tells';
comment on column outbox.delivery.operation_id is 'The operation';
comment on column outbox.delivery.provider_id is 'The provider''s id in the webhook, by the id_field of the endpoint; empty: it had none, or only one that may be the event''s';
comment on column outbox.delivery.recipient is 'Whom it is about, as the webhook says; empty: it does not. Numbered once the operation is scrubbed';
comment on column outbox.delivery.state is 'How far it came';
comment on column outbox.delivery.status is 'The provider''s own word for it';
comment on column outbox.delivery.told_at is 'When that was, by the provider''s clock; null: it named no time';
comment on column outbox.delivery.webhook_id is 'The webhook that told so';
comment on column outbox.delivery.first_at is 'When the first webhook about it was matched';
comment on column outbox.delivery.changed_at is 'When a webhook changed it last';
comment on column outbox.delivery.evidence is 'It proves that the API executed the operation: it carries the id that the API gives to what it executes';
comment on column outbox.delivery.agrees is 'It says what is on record, as far as it was compared; null: whether its id is this operation''s is not known yet';
comment on column outbox.delivery.next_look_at is 'When to compare it with the record again; null: they agree';
comment on column outbox.delivery.recipient_hint is 'The last two characters of the recipient, for those who may not see phone numbers';
create index delivery_to_weigh on outbox.delivery (next_look_at) where next_look_at is not null;
create index delivery_that_disagrees on outbox.delivery (operation_id) where evidence and not agrees;

create table outbox.webhook_source (
    account        text collate "C" not null,
    endpoint       text collate "C" not null references outbox.endpoint (name) on delete cascade,
    due_within     interval constraint webhook_source_waits_a_minute_to_a_month check (outbox.is_exact(due_within) and due_within between '00:01:00' and '720:00:00'),
    first_at       timestamptz,
    last_at        timestamptz,
    checked_until  timestamptz not null default clock_timestamp(),
    primary key (account, endpoint)
);
comment on table outbox.webhook_source is 'Which accounts are known to be sent webhooks about which endpoints, and from when on silence means something';
comment on column outbox.webhook_source.account is 'The account';
comment on column outbox.webhook_source.endpoint is 'The endpoint';
comment on column outbox.webhook_source.due_within is 'How long after success the first webhook is due (outbox.expect_webhooks); null: nobody waits for one';
comment on column outbox.webhook_source.first_at is 'When the first one was matched; null: none was, and nothing is missed yet';
comment on column outbox.webhook_source.last_at is 'When the latest one was matched';
comment on column outbox.webhook_source.checked_until is 'What succeeded up to here has been checked';

create table outbox.silence (
    operation_id  bigint primary key references outbox.operation (id) on delete cascade,
    noticed_at    timestamptz not null default clock_timestamp()
);
comment on table outbox.silence is 'Operations that the API accepted and that no webhook spoke of in time; outbox.undelivered is how they are read';
comment on column outbox.silence.operation_id is 'The operation';
comment on column outbox.silence.noticed_at is 'When it was noticed';

create function outbox.receive(account text, digest bytea, headers jsonb, body bytea, reports jsonb) returns boolean
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform from outbox.account a where a.name = receive.account for key share;  -- it may be about to move: deploy/sharding
    if not found then
        raise exception 'there is no account %', quote_nullable(receive.account) using errcode = 'RO002';
    end if;
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        perform set_config('synchronous_commit', 'on', true);  -- its sender will not say it again
    end if;
    insert into outbox.webhook (account, digest, headers, body, reports, next_look_at)
    values (receive.account, receive.digest, receive.headers, receive.body, receive.reports,
            case when receive.reports <> '[]' then clock_timestamp() end)
        on conflict on constraint webhook_comes_once do nothing;
    return found;
end $$;
comment on function outbox.receive is 'Keeps a webhook. Returns whether it is new: the same again is not kept again';

create function outbox.named_by(account text, report jsonb) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    by_id bigint[];
    by_key bigint[];
begin
    select array_agg(distinct o.id) into by_id
      from jsonb_each_text(report -> 'ids') as given (field, value)
      join outbox.operation o on o.provider_id = given.value and o.account = named_by.account
      join outbox.endpoint e on e.name = o.endpoint and e.id_field = given.field;
    if cardinality(by_id) = 1 then
        return by_id[1];
    end if;
    select array_agg(o.id) into by_key from outbox.operation o
     where o.idempotency_key = any (array(select jsonb_array_elements_text(report -> 'keys')))  -- a join may be planned over the whole table
       and o.account = named_by.account;
    if by_id is not null then
        by_key := array(select unnest(by_id) intersect select unnest(by_key));
    end if;
    -- A reissue sends the same body, and in it the key of the first: which of them was executed it does not tell.
    return case when cardinality(by_key) = 1 and not outbox.was_reissued(by_key[1]) then by_key[1] end;
end $$;
comment on function outbox.named_by is
    'The operation of an account that a report names: by the provider''s id, else by a key in it. Null: none, or it cannot be told which';

create function outbox.keep_delivery(operation_id bigint, webhook_id bigint, report jsonb) returns void
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    insert into outbox.delivery as d (operation_id, provider_id, recipient, state, status, told_at, webhook_id, evidence)
    select o.id, coalesce(id.value, ''),
           -- Once it is scrubbed, no number comes back; and none looks like the "#1" that the scrub writes.
           case when o.payload is null then '' else ltrim(coalesce(report ->> 'recipient', ''), '#') end,
           (report ->> 'state')::outbox.delivery_state, report ->> 'status',
           (report ->> 'told_at')::timestamptz, keep_delivery.webhook_id,
           -- An API without ids: its own word that something happened. "failed" and "queued" may be said of what was never begun.
           case when id.value is null then report ->> 'state' not in ('unknown', 'queued', 'failed') else id.value <> '' end
      from outbox.operation o
      join outbox.endpoint e on e.name = o.endpoint
     -- By a name that anything's id may have, it may be the event's own: such an endpoint is like one without ids.
     cross join lateral (select case when lower(e.id_field) not in ('id', '_id', 'uuid', 'guid', 'identifier', 'token')
                                     then coalesce(report -> 'ids' ->> e.id_field, '') end as value) as id
     where o.id = keep_delivery.operation_id
        on conflict on constraint delivery_pkey do update
       set (state, status, told_at, webhook_id, changed_at) = (
               select n.state, n.status, n.told_at, n.webhook_id, n.changed_at
                 from (values (excluded.state, excluded.status, excluded.told_at, excluded.webhook_id, clock_timestamp()),
                              (d.state, d.status, d.told_at, d.webhook_id,
                               case when excluded.evidence and not d.evidence then clock_timestamp() else d.changed_at end))
                      as n (state, status, told_at, webhook_id, changed_at)
                order by coalesce(n.told_at, '-infinity') desc, n.state desc, n.status desc limit 1),
           evidence = d.evidence or excluded.evidence,
           next_look_at = case when excluded.evidence and not d.evidence then clock_timestamp() else d.next_look_at end
     where (coalesce(excluded.told_at, '-infinity'), excluded.state, excluded.status) > (coalesce(d.told_at, '-infinity'), d.state, d.status)
        or (excluded.evidence and not d.evidence)
$$;
comment on function outbox.keep_delivery is
    'Writes what a report tells of an operation, unless a later one is known: by the provider''s time, then by how far it came. So their order does not matter';

create function outbox.settle_by_evidence(operation_id bigint) returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    o outbox.operation;
    d outbox.delivery;
    action_id bigint;
begin
    select p.* into o from outbox.operation p where p.id = settle_by_evidence.operation_id for no key update skip locked;
    if not found or o.state <> 'unresolved' then
        return false;
    end if;
    select n.* into d from outbox.delivery n
     where n.operation_id = o.id and n.evidence and (o.provider_id is null or n.provider_id in ('', o.provider_id))
     order by n.first_at, n.provider_id, n.recipient limit 1;
    if not found then
        return false;  -- it names another id than an answer did: outbox.conflict, for a person (law 11)
    end if;
    action_id := outbox.acted('resolve', o, format('webhook %s tells of it: %s', d.webhook_id, d.state),
        jsonb_build_object('to', 'succeeded', 'evidence', 'webhook', 'webhook', d.webhook_id, 'provider_id', nullif(d.provider_id, '')));
    update outbox.operation u
       set state = 'succeeded', finished_at = clock_timestamp(), resolved_by = action_id, last_action = action_id,
           provider_id = coalesce(u.provider_id, nullif(d.provider_id, ''))
     where u.id = o.id;
    return true;
end $$;
comment on function outbox.settle_by_evidence is
    'Settles an unresolved operation as succeeded by a webhook that proves it, through the audit, and with the provider''s id. Never as anything else. Returns whether it did';

create function outbox.may_be_anothers(operation_id bigint, told_at timestamptz) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select exists (
        select from outbox.operation o
          join outbox.endpoint e on e.name = o.endpoint
         cross join lateral (  -- in the order of the indexes that hold these alone, and not by their account, which may have millions more
               (select p.id, p.account, p.endpoint, p.first_sent_at from outbox.operation p
                 where p.state = 'in_flight' order by p.lease_expires_at offset 0)
               union all
               (select p.id, p.account, p.endpoint, p.first_sent_at from outbox.operation p
                 where p.state = 'queued' and p.first_sent_at is not null order by p.key_window_closes_at offset 0)) as open
          join outbox.endpoint f on f.name = open.endpoint
         where o.id = may_be_anothers.operation_id
           and open.account = o.account and open.id <> o.id and open.first_sent_at <= may_be_anothers.told_at and f.id_field is not distinct from e.id_field)
$$;
comment on function outbox.may_be_anothers is
    'Whether the id in a webhook, which leads to an operation by a key alone, may be another''s: one that was sent before, and whose answer, with its id, may still come';

create function outbox.give_back(operation_id bigint) returns void
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    with anothers as (
        delete from outbox.delivery d
         using outbox.operation o, outbox.endpoint e
         where o.id = give_back.operation_id and e.name = o.endpoint
           and d.operation_id = o.id and d.next_look_at is not null and d.evidence and d.provider_id not in ('', coalesce(o.provider_id, ''))
           and exists (select from outbox.operation p
                         join outbox.endpoint f on f.name = p.endpoint and f.id_field = e.id_field
                        where p.provider_id = d.provider_id collate "default" and p.account = o.account and p.id <> o.id)
        returning d.webhook_id)
    update outbox.webhook w set next_look_at = clock_timestamp()
     where w.id in (select a.webhook_id from anothers a)
$$;
comment on function outbox.give_back is
    'Takes from an operation what webhooks told of it by its key, if their id is on record of another one, whose reference the key was. They are looked at again';

create function outbox.weigh(operation_id bigint) returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    told_at timestamptz;
    is_unsure boolean := false;
    settled boolean := false;
begin
    -- A key leads to more than one operation, if an app put it into another one's reference: then the id decides whose
    -- webhook it is, and the answer that brings it may still be under way (law 9). First who is open, then what is on record.
    select max(greatest(d.first_at, d.changed_at)) into told_at
      from outbox.delivery d join outbox.operation o on o.id = d.operation_id
     where d.operation_id = weigh.operation_id and d.next_look_at is not null and d.evidence
       and d.provider_id is distinct from o.provider_id and (d.provider_id <> '' or o.state <> 'succeeded');
    if told_at is not null then
        is_unsure := outbox.may_be_anothers(weigh.operation_id, told_at);
        perform outbox.give_back(weigh.operation_id);
    end if;
    if not is_unsure
       and exists (select from outbox.operation o where o.id = weigh.operation_id and o.state = 'unresolved')
       and exists (select from outbox.delivery d where d.operation_id = weigh.operation_id and d.evidence) then
        settled := outbox.settle_by_evidence(weigh.operation_id);
    end if;
    update outbox.delivery d
       set agrees = c.agrees,
           next_look_at = case when c.agrees is not true then clock_timestamp()
                                    + greatest(interval '1 second', least(clock_timestamp() - d.first_at, interval '5 minutes')) end
      from (select m.* from outbox.delivery m
             where m.operation_id = weigh.operation_id and m.next_look_at is not null for no key update skip locked) as n
      join outbox.operation o on o.id = n.operation_id
     cross join lateral (
           select case when not n.evidence then true
                       when is_unsure and n.provider_id is distinct from o.provider_id then null
                       else o.state = 'succeeded' and case
                            when n.provider_id = '' then true
                            when o.provider_id is not null then n.provider_id = o.provider_id
                            else not exists (select from outbox.delivery other
                                              where other.operation_id = n.operation_id and other.evidence
                                                and other.provider_id not in ('', n.provider_id)) end end as agrees) as c
     where d.operation_id = n.operation_id and d.provider_id = n.provider_id and d.recipient = n.recipient;
    return settled;
end $$;
comment on function outbox.weigh is
    'Compares what webhooks prove of an operation with the record, and settles it if it is unresolved. What does not agree is compared again, after a second to five minutes';

create function outbox.weigh_each(ids bigint[]) returns bigint[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    half constant integer := cardinality(ids) / 2;
    settled bigint[] := '{}';
    id bigint;
begin
    foreach id in array ids loop
        exit when clock_timestamp() > statement_timestamp() + interval '4 seconds';  -- the others are due still, and upkeep gives a round ten
        if outbox.weigh(id) then
            settled := settled || id;
        end if;
    end loop;
    return settled;
exception when others then  -- one of them, which must not cost the others theirs: halved, for each block of their own would be hundreds
    if half > 0 then
        return outbox.weigh_each(ids[:half]) || outbox.weigh_each(ids[half + 1:]);
    elsif sqlstate <> '55P03' then  -- else somebody holds it, for a moment
        raise warning 'what webhooks tell of operation % cannot be compared with the record: %', ids[1], sqlerrm;
        update outbox.delivery d set next_look_at = clock_timestamp() + interval '5 minutes' where d.operation_id = ids[1] and d.next_look_at is not null;
    end if;
    return '{}';
end $$;
comment on function outbox.weigh_each is
    'Weighs operations, and returns those that it settled. One that cannot be weighed costs no other, and is put off by five minutes; one that is held, to the next time';

create function outbox.match_webhook(webhook outbox.webhook) returns bigint[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    report jsonb;
    -- For a day longer than any key lives: a retry under it may yet bring the id that this webhook names.
    is_over constant boolean := (webhook).received_at <= clock_timestamp() - (select max(e.key_ttl) + interval '24:00:00' from outbox.endpoint e);
    named bigint;
    operations bigint[] := '{}';
    is_whole boolean := true;
    was_reissued boolean := false;
begin
    for report in select value from jsonb_array_elements((webhook).reports) loop
        named := outbox.named_by((webhook).account, report);
        if named is null then
            is_whole := false;
            was_reissued := was_reissued or is_over and exists (
                select from outbox.operation o
                 where o.idempotency_key = any (array(select jsonb_array_elements_text(report -> 'keys')))
                   and o.account = (webhook).account and outbox.was_reissued(o.id));
        else
            perform outbox.keep_delivery(named, (webhook).id, report);
            operations := operations || named;
        end if;
    end loop;
    update outbox.webhook w
       set next_look_at = case when not is_whole and not is_over
                               then clock_timestamp() + greatest(interval '1 second', least(clock_timestamp() - w.received_at, interval '6 hours')) end,
           problem = case when is_whole or not is_over then null
                          when was_reissued then 'its operation was reissued, and the id is on record of neither'
                          else 'no operation fits' end
     where w.id = (webhook).id;
    return operations;
end $$;
comment on function outbox.match_webhook is
    'Writes the deliveries that a webhook tells of, as far as their operations are known, and when to look again for the others. Returns those operations';

create function outbox.correlate(max_count integer, out looked_count integer, out settled bigint[])
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off set lock_timeout = '100ms'
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
declare
    started_at constant timestamptz := clock_timestamp();
    found_webhook outbox.webhook;
    operations bigint[] := '{}';
begin
    looked_count := 0;
    settled := '{}';
    -- One at a time: two that write the same rows in different orders would wait for each other.
    if not pg_try_advisory_xact_lock(hashtextextended('ringonce: webhooks', 0)) then
        return;
    end if;
    for found_webhook in select w.* from outbox.webhook w where w.next_look_at <= (select clock_timestamp())
                          order by w.next_look_at limit max_count for no key update skip locked loop
        looked_count := looked_count + 1;
        begin
            operations := operations || outbox.match_webhook(found_webhook);
        exception
            when lock_not_available then
                update outbox.webhook w set next_look_at = clock_timestamp() + interval '5 seconds' where w.id = found_webhook.id;
            when data_exception or integrity_constraint_violation or program_limit_exceeded then
                update outbox.webhook w set next_look_at = null, problem = left(sqlerrm, 1000) where w.id = found_webhook.id;
        end;
        -- One may tell of a thousand recipients, and upkeep gives a round ten seconds.
        exit when clock_timestamp() > started_at + interval '1 second';
    end loop;
    begin
        insert into outbox.webhook_source as s (account, endpoint, first_at, last_at)
        select o.account, o.endpoint, clock_timestamp(), clock_timestamp()
          from (select distinct p.account, p.endpoint from unnest(operations) as named (id) join outbox.operation p on p.id = named.id) as o
         order by o.account, o.endpoint
            on conflict on constraint webhook_source_pkey do update
           set first_at = coalesce(s.first_at, excluded.first_at), last_at = excluded.last_at,
               -- What succeeded long before the first one came was never going to be told of.
               checked_until = case when s.first_at is null then greatest(s.checked_until, clock_timestamp() - s.due_within) else s.checked_until end;
        delete from outbox.silence q where q.operation_id = any (operations);
    exception when lock_not_available then
        null;  -- the next webhook says the same, and outbox.undelivered looks for itself
    end;
    settled := outbox.weigh_each(array(
        select distinct t.id from (
            select unnest(operations) as id
            union all
            (select d.operation_id from outbox.delivery d where d.next_look_at <= (select clock_timestamp()) order by d.next_look_at limit max_count)) as t
         order by t.id));
end $$;
comment on function outbox.correlate is
    'Looks at up to max_count webhooks whose operations are still to be found, for a second, and at as many deliveries that do not agree with the record. Returns how many webhooks
it looked at, and the operations that were unresolved and that a webhook settled. While another one is at it, it does nothing';

create function outbox.watch_deliveries(max_count integer) returns integer
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
declare
    source outbox.webhook_source;
    bound timestamptz;
    found_count integer;
    total integer := 0;
begin
    for source in select s.* from outbox.webhook_source s where s.due_within is not null and s.first_at is not null
                   order by s.account, s.endpoint for no key update skip locked loop
        -- A batch of records shares one finished_at: the bound is a time, and all that ended at it are checked together.
        select n.finished_at into bound from outbox.operation n
         where n.account = source.account and n.endpoint = source.endpoint and n.finished_at > source.checked_until
           and n.finished_at <= (select clock_timestamp()) - source.due_within
         order by n.finished_at offset greatest(max_count, 1) - 1 limit 1;
        bound := coalesce(bound, clock_timestamp() - source.due_within);
        continue when bound <= source.checked_until;
        insert into outbox.silence (operation_id)
        select o.id from outbox.operation o
         where o.account = source.account and o.endpoint = source.endpoint and o.finished_at > source.checked_until and o.finished_at <= bound
           and o.state = 'succeeded' and o.resolved_by is null
           and (select true from outbox.delivery d where d.operation_id = o.id limit 1) is not true
            on conflict do nothing;
        get diagnostics found_count = row_count;
        total := total + found_count;
        update outbox.webhook_source s set checked_until = bound where s.account = source.account and s.endpoint = source.endpoint;
    end loop;
    return total;
end $$;
comment on function outbox.watch_deliveries is
    'Notices what the API accepted and no webhook spoke of within due_within: up to max_count operations of each account and endpoint that is watched, from where it was. Returns
how many are new among outbox.undelivered';

create function outbox.expect_webhooks(account text, endpoint text, due_within interval, reason text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.known_account(expect_webhooks.account, expect_webhooks.reason);
    if not exists (select from outbox.endpoint e where e.name = expect_webhooks.endpoint) then
        raise exception 'there is no endpoint %', quote_nullable(expect_webhooks.endpoint) using errcode = 'RO001';
    elsif outbox.exact(expect_webhooks.due_within) not between '00:01:00' and '720:00:00' or not outbox.is_exact(outbox.exact(expect_webhooks.due_within)) then
        raise exception 'a webhook is due within a minute to 30 days, not %', expect_webhooks.due_within using errcode = 'RO006';
    end if;
    insert into outbox.webhook_source as s (account, endpoint, due_within)
    values (expect_webhooks.account, expect_webhooks.endpoint, outbox.exact(expect_webhooks.due_within))
        on conflict on constraint webhook_source_pkey do update
       set due_within = excluded.due_within,
           checked_until = case when s.due_within is null then clock_timestamp() else s.checked_until end;  -- not what nobody waited for
    insert into outbox.action (name, account, reason, detail)
    values ('expect_webhooks', expect_webhooks.account, expect_webhooks.reason,
            jsonb_build_object('endpoint', expect_webhooks.endpoint, 'due_within', outbox.exact(expect_webhooks.due_within)));
end $$;
comment on function outbox.expect_webhooks is
    'From now on each operation of the account and endpoint that the API accepts is to be spoken of by a webhook within due_within; else it is in outbox.undelivered. Null: no longer';

create function outbox.webhook_is_held(account text, reports jsonb) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select exists (select from outbox.legal_hold h where h.operation_id is null and h.lane is null and h.account = webhook_is_held.account)
        or exists (select from jsonb_path_query(webhook_is_held.reports, '$[*].ids.*') as given (value)
                    cross join lateral (  -- value by value, by its index: else a new table is read whole
                        select n.id, n.account, n.lane from outbox.operation n where n.provider_id = given.value #>> '{}' offset 0) as o
                    where o.account = webhook_is_held.account and outbox.is_held(o.id, o.account, o.lane))
        or exists (select from jsonb_path_query(webhook_is_held.reports, '$[*].keys[*]') as given (value)
                    cross join lateral (
                        select n.id, n.account, n.lane from outbox.operation n where n.idempotency_key = given.value #>> '{}' offset 0) as o
                    where o.account = webhook_is_held.account and outbox.is_held(o.id, o.account, o.lane))
$$;
comment on function outbox.webhook_is_held is
    'Whether a webhook has to stay: its account is under a legal hold, or an operation of the account is that it may speak of, by any id or key in it';

create function outbox.forget_webhooks(keep interval, max_count integer) returns integer
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off as $$
declare
    started_at constant timestamptz := clock_timestamp();
    lasts constant interval := outbox.retires_after(keep);
    any_hold boolean;
    mark timestamptz;
    met record;
    ids bigint[] := '{}';
    forgotten integer;
begin
    if lasts is null then
        return 0;
    end if;
    any_hold := exists (select from outbox.legal_hold);
    mark := case when any_hold then (select r.webhook_from from outbox.retention r) end;
    for met in select n.id, n.account, n.received_at, n.reports from outbox.webhook n
                where n.received_at >= coalesce(mark, '-infinity') and n.received_at < started_at - lasts order by n.received_at loop
        exit when cardinality(ids) >= max_count or clock_timestamp() > started_at + interval '2 seconds';
        if any_hold and outbox.webhook_is_held(met.account, met.reports) then
            mark := met.received_at;  -- what is free before it goes now
        else
            ids := ids || met.id;
        end if;
    end loop;
    delete from outbox.webhook w where w.id = any (ids);
    get diagnostics forgotten = row_count;
    if any_hold then
        perform from outbox.retention for update skip locked;
        update outbox.retention r set webhook_from = mark where found and mark > coalesce(r.webhook_from, '-infinity');
    end if;
    return forgotten;
end $$;
comment on function outbox.forget_webhooks is
    'Deletes webhooks, which hold phone numbers, that came longer than keep ago; what they told stays in outbox.delivery. What speaks of anything under a legal hold stays. It walks
for no longer than about 2 s, and where there are holds the next pass begins behind what it walked over. Returns how many';

alter table outbox.retention add column webhook_from timestamptz;
comment on column outbox.retention.webhook_from is 'All webhooks that came before this tell of what is under a legal hold: forget_webhooks() does not walk over them again; null: not known';
create or replace function outbox.retire_from_the_start() returns void
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    update outbox.retention r set scrub_from = null, purge_from = null, webhook_from = null
     where r.scrub_from is not null or r.purge_from is not null or r.webhook_from is not null
$$;

drop function outbox.retire(interval, interval, integer, text);
create function outbox.retire(
    scrub_after interval, purge_after interval, max_count integer, reason text,
    out scrubbed_count integer, out purged_count integer, out forgotten_count integer)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.need_reason(retire.reason);
    perform outbox.refuse_when_shut();
    perform pg_advisory_xact_lock_shared(74646623, 2);  -- a person waits for a hold that is being placed; upkeep would leave this pass out
    scrubbed_count := outbox.scrub(retire.scrub_after, retire.max_count, interval '10 seconds');
    purged_count := outbox.purge(retire.purge_after, retire.max_count, interval '10 seconds');
    forgotten_count := outbox.forget_webhooks(retire.scrub_after, retire.max_count);
    if scrubbed_count + purged_count + forgotten_count > 0 then
        insert into outbox.action (name, reason, detail)
        values ('retire', retire.reason, jsonb_build_object('scrubbed', scrubbed_count, 'purged', purged_count, 'webhooks', forgotten_count));
    end if;
end $$;
comment on function outbox.retire is
    'Does now what upkeep does in time: scrubs what has been final for longer than scrub_after, deletes what has been for longer than purge_after, and
webhooks that came longer than scrub_after ago; up to max_count of each. Returns how many';

create function outbox.delivery_is_scrubbed() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update outbox.delivery d set recipient = '#' || n.place
      from (select s.provider_id, s.recipient, row_number() over (order by s.provider_id, s.recipient) as place
              from outbox.delivery s where s.operation_id = new.id and s.recipient !~ '^(#[0-9]+)?$') as n
     where d.operation_id = new.id and d.provider_id = n.provider_id and d.recipient = n.recipient;
    return null;
end $$;
comment on function outbox.delivery_is_scrubbed is 'Trigger: with the payload of an operation the numbers of its recipients go';
create trigger delivery_is_scrubbed after update of payload on outbox.operation
    for each row when (new.payload is null and old.payload is not null) execute function outbox.delivery_is_scrubbed();

create or replace view outbox.conflict as
    select o.id, o.account, o.endpoint, o.state, o.idempotency_key, o.provider_id as recorded_provider_id,
           l.number as attempt_number, l.provider_id, l.body_sha256, l.started_at,
           case when o.state <> 'succeeded' then 'executed, but on record as ' || o.state
                when a.provider_id is distinct from l.provider_id then 'two provider ids: executed twice'
                else 'two different answers: executed twice' end as meaning
      from outbox.attempt l
      join outbox.operation o on o.id = l.operation_id
      left join lateral (
           select other.provider_id, other.body_sha256 from outbox.attempt other
            where other.operation_id = l.operation_id and other.number <> l.number and other.verdict = 'accepted'
              and (other.provider_id is distinct from l.provider_id
                   or (l.provider_id is null and other.body_sha256 is distinct from l.body_sha256))
            limit 1) as a on true
     where l.late and l.verdict = 'accepted'
       and (a is distinct from null or (o.finished_at is not null and o.state <> 'succeeded')
            or (o.resolved_by is not null and o.provider_id <> l.provider_id))  -- a webhook settled it
    union all
    select o.id, o.account, o.endpoint, o.state, o.idempotency_key, o.provider_id, null, nullif(w.provider_id, '') collate "default", null, w.first_at,
           case when o.finished_at is not null and o.state <> 'succeeded' then 'a webhook tells of it, but it is on record as ' || o.state
                else 'a webhook tells of another provider id: executed twice' end
      from outbox.operation o
      join lateral (
           select d.provider_id, min(d.first_at) as first_at from outbox.delivery d
            where d.operation_id = o.id and d.evidence and not d.agrees group by d.provider_id) as w on true
     where o.id in (select d.operation_id from outbox.delivery d where d.evidence and not d.agrees)
       and ((o.finished_at is not null and o.state <> 'succeeded')
            or (w.provider_id <> '' and w.provider_id <> o.provider_id)
            or (w.provider_id <> '' and o.provider_id is null and exists (
                select from outbox.delivery other
                 where other.operation_id = o.id and other.evidence and other.provider_id not in ('', w.provider_id))));
comment on column outbox.conflict.attempt_number is 'The attempt that tells otherwise; null: a webhook does';
comment on column outbox.conflict.provider_id is 'The provider''s id in its answer, or in the webhook';
comment on column outbox.conflict.body_sha256 is 'SHA-256 of its answer''s body; null: a webhook tells';
comment on column outbox.conflict.started_at is 'When the attempt started, or the webhook was matched';
comment on column outbox.endpoint.id_field is 'Member that holds the provider''s id, a non-empty string; null: the API gives none. In webhooks it is looked for only if it ends in id, identifier or token, and proves an execution only if it is no bare id, uuid, guid, identifier or token';
comment on column outbox.operation.resolved_by is 'The action by which a person, or a webhook that proves it, settled it';
comment on function outbox.operation_is_resolved_by_a_person is 'Trigger: what was in doubt ends as not executed by outbox.resolve() alone (law 6); as executed, by a webhook that proves it, too';
comment on column outbox.action.name is 'The function: cancel, retry, reissue, resolve, pause, resume, retire, hold, release, export, require_export, doubt_history, adopt_history,
confirm_history, expect_webhooks';

create view outbox.undelivered as
    select q.operation_id as id, o.account, o.endpoint, o.idempotency_key, o.lane, o.provider_id, o.finished_at, clock_timestamp() - o.finished_at as age,
           q.noticed_at
      from outbox.silence q
     cross join lateral (  -- from the few to the many, whatever is known of their numbers
           select p.account, p.endpoint, p.idempotency_key, p.lane, p.provider_id, p.finished_at from outbox.operation p
            where p.id = q.operation_id and p.state = 'succeeded'
              and (select true from outbox.delivery d where d.operation_id = p.id limit 1) is not true offset 0) as o;
comment on view outbox.undelivered is
    'What the API accepted, and no webhook spoke of in time: perhaps it was never dispatched. Only where webhooks are known to come and are waited for (outbox.expect_webhooks)';
comment on column outbox.undelivered.id is 'The operation';
comment on column outbox.undelivered.account is 'Its account';
comment on column outbox.undelivered.endpoint is 'Its endpoint';
comment on column outbox.undelivered.idempotency_key is 'Its key';
comment on column outbox.undelivered.lane is 'Its lane';
comment on column outbox.undelivered.provider_id is 'The provider''s id: ask the provider about this';
comment on column outbox.undelivered.finished_at is 'When the API accepted it';
comment on column outbox.undelivered.age is 'How long ago that was';
comment on column outbox.undelivered.noticed_at is 'When it was noticed';

revoke all on table outbox.webhook, outbox.delivery, outbox.webhook_source, outbox.silence, outbox.undelivered from public;
revoke all on function outbox.receive, outbox.named_by, outbox.keep_delivery, outbox.settle_by_evidence, outbox.may_be_anothers, outbox.give_back, outbox.weigh,
    outbox.weigh_each, outbox.match_webhook, outbox.correlate, outbox.watch_deliveries, outbox.expect_webhooks, outbox.webhook_is_held, outbox.forget_webhooks,
    outbox.delivery_is_scrubbed, outbox.retire from public;
grant usage on schema outbox to outbox_receiver;
-- What webhooks tell. A receiver stands in the open: it can add to outbox.webhook, and read nothing of it.
grant execute on function outbox.receive, outbox.correlate to outbox_receiver;
grant select on outbox.schema_version to outbox_receiver;
grant execute on function outbox.correlate, outbox.watch_deliveries, outbox.forget_webhooks to outbox_worker;
grant execute on function outbox.expect_webhooks, outbox.webhook_is_held, outbox.retire to outbox_admin;
grant select on outbox.undelivered, outbox.webhook_source to outbox_reader, outbox_admin;
grant select (id, account, received_at, next_look_at, problem) on outbox.webhook to outbox_reader;
grant select (operation_id, provider_id, state, status, told_at, webhook_id, first_at, changed_at, evidence, agrees, next_look_at, recipient_hint)
    on outbox.delivery to outbox_reader;
grant select on outbox.webhook, outbox.delivery, outbox.silence to outbox_admin;

insert into outbox.schema_version (version, compatible_from) values (4, 1);

commit;
