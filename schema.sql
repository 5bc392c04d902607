-- ringonce: the outbox. `psql -f schema.sql` on an empty database (PostgreSQL 15 to 18) is all it takes.
--
--   enqueue()            claim()               record()
--   ─────────► queued ─────────► in_flight ─────────────► succeeded | failed | expired | cancelled   (final)
--                ▲                   │
--                └───────────────────┴──────────────────► unresolved   (in doubt; a person or a late answer settles it)
--
-- Whatever Postgres can hold of the laws stands here, so that it holds for whoever writes: checks, keys, triggers,
-- privileges. The numbers of the laws are those of the README. Time is always Postgres' own (law 10), and
-- durations are exact seconds: a "day" in an interval is 25 hours once a year.
--
-- SQLSTATEs of our own (class RO), each with a message that says what to do:
--   RO001 unknown endpoint      RO002 unknown account      RO003 invalid key         RO004 invalid payload
--   RO005 key conflict          RO006 invalid time         RO007 invalid lane, priority, on_done or traceparent
--   RO008 operation not found   RO009 state conflict       RO010 the row is frozen   RO011 final is final
--   RO012 claims are shut      RO013 kept: under a legal hold, or not exported yet

begin;

do $$
begin
    if current_setting('server_version_num')::int < 150000 then
        raise exception 'ringonce needs PostgreSQL 15 or later, this is %', current_setting('server_version');
    end if;
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception 'ringonce needs a database in UTF8, this one is in %', current_setting('server_encoding');
    end if;
end $$;

-- Roles ---------------------------------------------------------------------------------------------------------------

do $$
declare
    wanted text;
begin
    foreach wanted in array array['outbox_producer', 'outbox_worker', 'outbox_receiver', 'outbox_reader', 'outbox_admin'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin', wanted);
            exception when duplicate_object or unique_violation then
                null;  -- another database of this cluster made it just now
            end;
        end if;
    end loop;
end $$;

create schema outbox;
comment on schema outbox is 'ringonce: operations for other people''s HTTP APIs, each executed once';

-- Words ---------------------------------------------------------------------------------------------------------------

create type outbox.state as enum ('queued', 'in_flight', 'succeeded', 'failed', 'expired', 'cancelled', 'unresolved');
comment on type outbox.state is
    'queued: waits for next_attempt_at. in_flight: leased. Final: succeeded (executed), failed (not executed, will not be
retried), expired (deadline passed, not executed), cancelled. unresolved: in doubt, and its key protects no retry';

create type outbox.verdict as enum ('accepted', 'refused', 'throttled', 'not_sent', 'ambiguous');
comment on type outbox.verdict is
    'accepted: executed. refused: will not be executed as it is. throttled: not executed now. not_sent: nothing left the
worker. ambiguous: may have been executed';

create type outbox.phase as enum ('connecting', 'sent', 'answered');
comment on type outbox.phase is
    'How far a request got. connecting: no byte can have left. sent: any part may have left. answered: a whole answer came';

create function outbox.is_exact(duration interval) returns boolean
    language sql immutable parallel safe
    return extract(year from duration) = 0 and extract(month from duration) = 0 and extract(day from duration) = 0;
comment on function outbox.is_exact is 'Whether an interval is exact seconds: it has no days and no months (law 10)';

create function outbox.exact(duration interval) returns interval
    language sql immutable parallel safe
    return case when extract(year from duration) = 0 and extract(month from duration) = 0
                then make_interval(secs => extract(epoch from duration)::double precision) else duration end;
comment on function outbox.exact is 'The interval with its days as 24 hours each; months stay, for the check to refuse (law 10)';

create function outbox.is_plausible(moment timestamptz) returns boolean
    language sql immutable parallel safe
    return isfinite(moment) and moment >= '2000-01-01 00:00:00+00' and moment < '9999-01-01 00:00:00+00';
comment on function outbox.is_plausible is 'Whether a time is finite and lies from 2000 to before 9999, so that every client can read it';

create function outbox.is_key(key text) returns boolean
    language sql immutable parallel safe
    return key !~ '[^!-~]' and octet_length(key) between 1 and 255;
comment on function outbox.is_key is 'Whether a text can be an idempotency key: 1 to 255 visible ASCII characters';

create function outbox.is_traceparent(value text) returns boolean
    language sql immutable parallel safe
    return octet_length(value) = 55 and value !~ '[^0-9a-f-]' and octet_length(replace(value, '-', '')) = 52
       and substr(value, 3, 1) = '-' and substr(value, 36, 1) = '-' and substr(value, 53, 1) = '-';
comment on function outbox.is_traceparent is 'Whether a text has the form of W3C''s traceparent: 00-<32 hex digits>-<16>-<2> (a counted regex took 10 us a row)';

create function outbox.is_guessable(key text) returns boolean
    language sql immutable parallel safe
    return (key ~ '^[A-Za-z_.:#/-]*[0-9]{1,20}([.,][0-9]+)?$' and key !~ '^[A-Fa-f]{12}[0-9]{20}$')
        or key ~ '^[0-9]{4}-?[0-9]{2}-?[0-9]{2}([T_ -]?[0-9]{2}:?[0-9]{2}(:?[0-9]{2}([.,][0-9]+)?)?(Z|[+-][0-9:]+)?)?$';
comment on function outbox.is_guessable is
    'Whether a key looks like a sequence or a time (msg-1, 1714900000000): such keys are reused by accident. No UUID does';

-- Accounts and endpoints ----------------------------------------------------------------------------------------------

create table outbox.schema_version (
    version          integer primary key,
    applied_at       timestamptz not null default clock_timestamp(),
    compatible_from  integer constraint schema_version_is_compatible_with_the_past check (compatible_from between 1 and version)
);
comment on table outbox.schema_version is
    'The versions of this schema. A worker refuses to start on an older one than its own, and on a newer one unless that is compatible with it';
comment on column outbox.schema_version.version is 'Number of the schema, rising by one';
comment on column outbox.schema_version.applied_at is 'When it was applied';
comment on column outbox.schema_version.compatible_from is
    'The oldest version whose workers work with this one as well; null: none but its own';
insert into outbox.schema_version (version, compatible_from) values (5, 1);

create table outbox.account (
    name                  text collate "C" primary key check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$' and octet_length(name) <= 63),
    app_id                text collate "C" not null check (outbox.is_key(app_id) and app_id !~ ':'),
    base_url              text not null default 'https://api.enablex.io'
                          check (base_url ~ '^https?://(\[[0-9A-Fa-f:.]+\]|[^]/?#@:[[:space:]]+)(:[0-9]{1,5})?(/[^?#[:space:]]*)?$' and base_url !~ '/$' and base_url !~ '[^!-~]'
                                 and octet_length(base_url) <= 1000),
    max_in_flight         integer check (max_in_flight > 0),
    rate_per_second       double precision check (rate_per_second > 0 and rate_per_second <= 1e6),
    burst                 integer check (burst > 0),
    breaker_after         integer default 20 constraint account_breaker_counts_attempts check (breaker_after > 0),
    paused_at             timestamptz,
    paused_reason         text,
    blocked_until         timestamptz check (outbox.is_plausible(blocked_until)),
    blocked_reason        text,
    allow_guessable_keys  boolean not null default false,
    created_at            timestamptz not null default clock_timestamp(),
    unique (name, app_id),
    check (burst is null or rate_per_second is not null),
    constraint account_pause_has_reason check ((paused_at is null) = (paused_reason is null)),
    constraint account_block_has_reason check ((blocked_until is null) = (blocked_reason is null))
);
comment on table outbox.account is 'A name for one APP ID, its limits and its stops. The APP KEY never stands in the database';
comment on column outbox.account.name is 'What producers call it; names the environment variable RINGONCE_APP_KEY_<NAME> or the secret file';
comment on column outbox.account.app_id is 'The API''s name for the caller; frozen as soon as an operation carries it (a foreign key holds it)';
comment on column outbox.account.base_url is 'Where the API lives: scheme, host, optional path, no slash at the end';
comment on column outbox.account.max_in_flight is 'Most operations in flight over the whole fleet; null: no limit';
comment on column outbox.account.rate_per_second is 'Most claims a second over the whole fleet (token bucket); null: no limit';
comment on column outbox.account.burst is 'Size of the token bucket; null: one second''s worth, at least 1';
comment on column outbox.account.breaker_after is
    'After so many ambiguous attempts in a row one operation goes at a time, so that an outage does not put the backlog in doubt; null: never';
comment on column outbox.account.paused_at is 'When a person paused it; nothing is claimed until a person resumes it';
comment on column outbox.account.paused_reason is 'Why the person paused it';
comment on column outbox.account.blocked_until is
    'Set by workers (401, suspended ...): nothing is claimed before this, and afterwards one operation at a time, until one gets through';
comment on column outbox.account.blocked_reason is 'What the API said that made workers stop';
comment on column outbox.account.allow_guessable_keys is 'Accept keys like msg-1, which are easily reused by accident';
comment on column outbox.account.created_at is 'When the row was written';

create table outbox.endpoint (
    name              text collate "C" primary key check (name ~ '^[a-z0-9][a-z0-9_.-]*$' and octet_length(name) <= 63),
    path              text not null check (path ~ '^/' and path !~ '[^!-~]' and path !~ '#' and octet_length(path) <= 1000),
    success_field     text default 'result',
    success_value     jsonb default '0' constraint endpoint_success_is_a_scalar
                      check (jsonb_typeof(success_value) in ('number', 'string', 'boolean', 'null') and octet_length(success_value::text) <= 1000),
    id_field          text default 'job_id' check (id_field <> ''),
    key_header        text not null default 'Idempotency-Key' check (key_header ~ '^[A-Za-z0-9-]+$')
                      constraint endpoint_key_header_means_nothing_else check (lower(key_header) not in (
                          'accept', 'accept-encoding', 'authorization', 'connection', 'content-encoding', 'content-length', 'content-type', 'cookie',
                          'expect', 'host', 'keep-alive', 'proxy-authorization', 'te', 'traceparent', 'trailer', 'transfer-encoding', 'upgrade', 'user-agent')),
    key_ttl           interval not null default '24:00:00',
    key_safety        interval not null default '00:10:00',
    settle            interval not null default '00:00:30',
    call_deadline     interval not null default '00:00:30',
    max_attempts      integer not null default 20 check (max_attempts between 1 and 1000),
    backoff           interval not null default '00:00:02',
    backoff_cap       interval not null default '00:15:00',
    default_deadline  interval,
    last_try          boolean not null default false,
    refusal_is_proof  boolean not null default false,
    caches_errors     boolean,
    account_codes     text[] not null default
                      '{UNAUTHORIZED,CREDENTIAL_EXPIRED,PROJECT_SUSPENDED,PROJECT_EXPIRED,ACCOUNT_SUSPENDED,ACCOUNT_EXPIRED}',
    revision          bigint not null default 1,
    constraint endpoint_durations_are_exact check (outbox.is_exact(key_ttl) and outbox.is_exact(key_safety) and outbox.is_exact(settle) and outbox.is_exact(call_deadline)
           and outbox.is_exact(backoff) and outbox.is_exact(backoff_cap) and outbox.is_exact(default_deadline)),
    constraint endpoint_durations_are_in_bounds check (key_ttl <= '8760:00:00' and key_safety >= '0' and settle >= '0' and settle <= '24:00:00' and call_deadline > '0'
           and backoff > '0' and backoff_cap >= backoff and backoff_cap <= '24:00:00'
           and default_deadline > '0' and default_deadline <= '87600:00:00'),
    constraint endpoint_key_outlives_a_call check (key_ttl - key_safety >= call_deadline + '00:00:01'),
    -- law 3: the last send may still be on its way to its key when the window closes, for settle at most
    constraint endpoint_safety_outlasts_settle check (key_safety >= settle),
    constraint endpoint_account_codes_are_a_list check (coalesce(array_ndims(account_codes), 1) = 1
           and cardinality(account_codes) <= 1000 and array_position(account_codes, null) is null),
    constraint endpoint_success_is_told_whole check ((success_field is null) = (success_value is null))
);
comment on table outbox.endpoint is 'One API method: where it is, how its answers are read, how long its keys protect. Another API is another row';
comment on column outbox.endpoint.name is 'What producers call it';
comment on column outbox.endpoint.path is 'Appended to the account''s base_url; a slash at the end is part of it';
comment on column outbox.endpoint.success_field is 'Member of a 2xx answer that tells success; null: any 2xx with a JSON object is one';
comment on column outbox.endpoint.success_value is 'What that member must be, strictly: 0 is neither false nor "0"';
comment on column outbox.endpoint.id_field is 'Member that holds the provider''s id, a non-empty string; null: the API gives none. In webhooks it is looked for only if it ends in id, identifier or token, and proves an execution only if it is no bare id, uuid, guid, identifier or token';
comment on column outbox.endpoint.key_header is 'Name of the header that carries the key';
comment on column outbox.endpoint.key_ttl is 'How long the API keeps a key';
comment on column outbox.endpoint.key_safety is 'Taken off key_ttl: settle, and beyond it what clocks may differ by';
comment on column outbox.endpoint.settle is 'How long the API may stay busy with a request whose answer we did not get (law 4)';
comment on column outbox.endpoint.call_deadline is 'Total time for one call, from connecting to the last byte of the answer';
comment on column outbox.endpoint.max_attempts is 'Attempts that count, before the operation is given up';
comment on column outbox.endpoint.backoff is 'Wait before the second attempt; doubles with each one';
comment on column outbox.endpoint.backoff_cap is 'The longest wait between two attempts';
comment on column outbox.endpoint.default_deadline is 'Deadline of an operation that names none, counted from its start; null: none';
comment on column outbox.endpoint.last_try is 'Save one attempt for shortly before the key window closes; off for voice: nobody wants the call 23 hours late';
comment on column outbox.endpoint.refusal_is_proof is 'A refusal proves that no earlier attempt was executed either (no gateway refuses what the API executed)';
comment on column outbox.endpoint.caches_errors is 'Whether the API replays an error under its key; null: not known. If so, retry of a refused operation is pointless';
comment on column outbox.endpoint.account_codes is 'Error codes of a 403 that speak of the account, not of the one request';
comment on column outbox.endpoint.revision is 'Rises with every change, so that workers notice';

create function outbox.endpoint_normalise() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    new.key_ttl := outbox.exact(new.key_ttl);
    new.key_safety := outbox.exact(new.key_safety);
    new.settle := outbox.exact(new.settle);
    new.call_deadline := outbox.exact(new.call_deadline);
    new.backoff := outbox.exact(new.backoff);
    new.backoff_cap := outbox.exact(new.backoff_cap);
    new.default_deadline := outbox.exact(new.default_deadline);
    if tg_op = 'UPDATE' then
        new.revision := old.revision + 1;
    end if;
    return new;
end $$;
comment on function outbox.endpoint_normalise is 'Trigger: makes days exact hours (psycopg sends 24 hours as "1 day") and counts the revision';
create trigger endpoint_normalise before insert or update on outbox.endpoint
    for each row execute function outbox.endpoint_normalise();

insert into outbox.endpoint (name, path, id_field, last_try) values
    ('voice.call',      '/voice/v1/call',              'voice_id',     false),
    ('voice.broadcast', '/voice/v1/broadcast',         'broadcast_id', false),
    ('sms.send',        '/sms/v1/messages/',           'job_id',       true),
    ('whatsapp.send',   '/whatsapp/v1/messages',       'job_id',       true),
    ('rcs.send',        '/rcs/v1/messages',            'job_id',       true),
    ('rcs.template',    '/rcs/v1/messages/templates',  'job_id',       true),
    ('message.send',    '/messaging/v1/send',          'job_id',       true);

create table outbox.account_meter (
    account      text collate "C" primary key,
    tokens       double precision not null default 0,
    refilled_at  timestamptz not null default '2000-01-01 00:00:00+00',
    doubt_run    integer not null default 0,
    probe_at     timestamptz,
    probe_wait   double precision
);
comment on table outbox.account_meter is
    'The token bucket and the breaker of each account, and the row that claims of a limited account lock. No foreign key refers to it, so no producer waits';
comment on column outbox.account_meter.account is 'The account';
comment on column outbox.account_meter.tokens is 'Tokens left at refilled_at';
comment on column outbox.account_meter.refilled_at is 'When tokens was last counted; a new bucket is full';
comment on column outbox.account_meter.doubt_run is 'Ambiguous attempts in a row, over the whole fleet, since the API last answered clearly';
comment on column outbox.account_meter.probe_wait is 'How long the breaker waited for that, in seconds';
comment on column outbox.account_meter.probe_at is 'The breaker is open: one operation may go, and not before this; null: it is closed';

create function outbox.account_gets_meter() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into outbox.account_meter (account) values (new.name) on conflict do nothing;
    return null;
end $$;
comment on function outbox.account_gets_meter is 'Trigger: every account has a meter, under whatever name: without one it would have no limit, no pause and no due time';
create trigger account_gets_meter after insert or update of name on outbox.account for each row execute function outbox.account_gets_meter();

create table outbox.throttle (
    account         text collate "C" not null references outbox.account (name) on delete cascade,
    endpoint        text collate "C" not null references outbox.endpoint (name) on delete cascade,
    blocked_until   timestamptz not null check (outbox.is_plausible(blocked_until)),
    blocked_reason  text not null,
    blocked_at      timestamptz not null default clock_timestamp(),
    primary key (account, endpoint)
);
comment on table outbox.throttle is
    'Set by workers (429, 503): an account''s use of one endpoint stops until blocked_until, then goes on with one operation at a time until one gets through';
comment on column outbox.throttle.account is 'The account';
comment on column outbox.throttle.endpoint is 'The endpoint';
comment on column outbox.throttle.blocked_until is 'Nothing is claimed before this';
comment on column outbox.throttle.blocked_reason is 'What the API said';
comment on column outbox.throttle.blocked_at is 'When it said so';

create table outbox.suspicion (
    account       text collate "C" not null references outbox.account (name) on delete cascade,
    operation_id  bigint not null,
    status        integer not null,
    met_at        timestamptz not null default clock_timestamp(),
    primary key (account, operation_id)
);
comment on table outbox.suspicion is
    'Refusals that may be about the account (403 of unknown code, 404, 405, 307, 308): three different operations in a row block it';
comment on column outbox.suspicion.account is 'The account';
comment on column outbox.suspicion.operation_id is 'The operation that met it';
comment on column outbox.suspicion.status is 'The HTTP status';
comment on column outbox.suspicion.met_at is 'When';

-- Actions: what administrators did ------------------------------------------------------------------------------------

create table outbox.action (
    id            bigint generated always as identity primary key,
    name          text not null,
    operation_id  bigint,
    account       text collate "C",
    reason        text not null check (reason ~ '[^[:space:]]' and octet_length(reason) <= 4000),
    detail        jsonb not null default '{}',
    acted_by      name not null default session_user,
    acted_for     text default nullif(current_setting('outbox.acted_for', true), '') check (octet_length(acted_for) <= 63),
    acted_at      timestamptz not null default clock_timestamp(),
    transaction   xid8 not null default pg_current_xact_id()
);
comment on table outbox.action is 'The audit: who did what to which operation or account, why and when. Rows are only ever added';
comment on column outbox.action.id is 'Number of the action';
comment on column outbox.action.name is 'The function: cancel, retry, reissue, resolve, pause, resume, retire, hold, release, export, require_export, doubt_history, adopt_history,
confirm_history, expect_webhooks';
comment on column outbox.action.operation_id is 'The operation it was done to';
comment on column outbox.action.account is 'The account it was done to';
comment on column outbox.action.reason is 'Why, in the administrator''s words';
comment on column outbox.action.detail is 'What changed: the state before and after, and more';
comment on column outbox.action.acted_by is 'The session''s own user, whatever role it has put on';
comment on column outbox.action.acted_for is 'Whom acted_by says that it acted for: the admin page behind a proxy names the person here; null: itself';
comment on column outbox.action.acted_at is 'When';
comment on column outbox.action.transaction is 'The transaction that did it: only that one may move its operation out of a final state';
create index action_of_operation on outbox.action (operation_id, id) where operation_id is not null;

create function outbox.action_stays() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'outbox.action is the audit: rows are only ever added' using errcode = 'RO010';
end $$;
comment on function outbox.action_stays is 'Trigger: the audit is append-only';
create trigger action_stays before update or delete on outbox.action for each row execute function outbox.action_stays();
create trigger action_stays_whole before truncate on outbox.action for each statement execute function outbox.action_stays();

create function outbox.action_outlasts_a_crash() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        perform set_config('synchronous_commit', 'on', true);  -- whoever was told that it is cancelled, paused or shut relies on it
    end if;
    return null;
end $$;
comment on function outbox.action_outlasts_a_crash is 'Trigger: the commit of what a person did waits for the disk';
create trigger action_outlasts_a_crash before insert on outbox.action for each statement execute function outbox.action_outlasts_a_crash();

-- Operations ----------------------------------------------------------------------------------------------------------

create table outbox.operation (
    id                    bigint generated always as identity primary key,
    account               text collate "C" not null default 'default',
    app_id                text collate "C" not null,
    endpoint              text collate "C" not null references outbox.endpoint (name),
    idempotency_key       text collate "C" not null check (outbox.is_key(idempotency_key)),
    payload               json check (json_typeof(payload) = 'object' and octet_length(payload::text) <= 1048576),
    payload_sha256        bytea not null check (octet_length(payload_sha256) = 32),
    lane                  text collate "C" not null default '' check (char_length(lane) <= 100 and lane !~ '[[:cntrl:]]'),
    priority              smallint not null default 1 check (priority between 0 and 3),
    state                 outbox.state not null default 'queued',
    next_attempt_at       timestamptz default clock_timestamp(),
    deadline_at           timestamptz,
    attempt_count         integer not null default 0 check (attempt_count >= 0),
    attempt_number        integer not null default 0 constraint operation_counts_no_attempt_twice check (attempt_number >= attempt_count),
    first_sent_at         timestamptz,
    key_window_closes_at  timestamptz,
    settles_at            timestamptz,
    url                   text check (octet_length(url) <= 2000),
    key_header            text,
    lease_token           uuid,
    lease_expires_at      timestamptz,
    leased_by             text check (octet_length(leased_by) <= 255),
    response_status       integer check (response_status between 100 and 999),
    response_headers      jsonb check (jsonb_typeof(response_headers) = 'array'),
    response_body         bytea,
    provider_id           text check (char_length(provider_id) between 1 and 255),
    last_error            text check (octet_length(last_error) <= 4000),
    last_answer_sha256    bytea check (octet_length(last_answer_sha256) = 32),
    repeat_count          integer not null default 0 check (repeat_count >= 0),
    reissue_of            bigint references outbox.operation (id) on delete set null,
    resolved_by           bigint references outbox.action (id),
    last_action           bigint references outbox.action (id),
    on_done               text check (on_done !~ '[^!-~]' and octet_length(on_done) between 1 and 200),
    awaited               boolean not null default false,
    traceparent           text check (outbox.is_traceparent(traceparent)),
    enqueued_by           name not null default session_user,
    created_at            timestamptz not null default clock_timestamp(),
    finished_at           timestamptz,

    -- law 2: one meaning for each key of an APP ID, whatever the accounts are called; an account's APP ID stays
    -- (the key comes first in the index, so that a producer finds its result by it)
    constraint operation_key_is_unique unique (idempotency_key, app_id),
    constraint operation_app_id_is_the_accounts foreign key (account, app_id) references outbox.account (name, app_id),
    constraint operation_is_never_its_own_reissue check (reissue_of <> id),
    -- finite, and such that every client can read them; in one expression, because every update evaluates it
    constraint operation_times_are_plausible check
        (least(next_attempt_at, deadline_at, first_sent_at, key_window_closes_at, settles_at, lease_expires_at, created_at, finished_at)
            >= '2000-01-01 00:00:00+00'
         and greatest(next_attempt_at, deadline_at, first_sent_at, key_window_closes_at, settles_at, lease_expires_at, created_at, finished_at)
            < '9999-01-01 00:00:00+00'),
    -- the states, each with what belongs to it
    constraint operation_waits_when_queued check ((state = 'queued') = (next_attempt_at is not null)),
    constraint operation_is_leased_in_flight check ((state = 'in_flight') = (lease_token is not null)
        and (lease_token is null) = (lease_expires_at is null) and (lease_token is null) = (leased_by is null)),
    constraint operation_is_finished_when_final check
        ((state in ('succeeded', 'failed', 'expired', 'cancelled')) = (finished_at is not null)),
    constraint operation_payload_stays_until_final check (payload is not null or finished_at is not null),
    -- law 1: what is in flight has been claimed, with its destination frozen
    constraint operation_in_flight_was_claimed check
        (state <> 'in_flight' or (attempt_number > 0 and url is not null and key_header is not null and first_sent_at is not null)),
    -- law 3: no lease outlives the key's window
    constraint operation_has_window_when_sent check ((first_sent_at is null) = (key_window_closes_at is null)),
    constraint operation_lease_ends_in_window check (state <> 'in_flight' or lease_expires_at <= key_window_closes_at),
    -- law 4: nothing is due before the API is done with the attempt before
    constraint operation_waits_for_settle check (state <> 'queued' or settles_at is null or next_attempt_at >= settles_at),
    -- law 6: these mean "known not to have been executed"; unresolved means "not known"
    constraint operation_final_is_honest check
        (state not in ('failed', 'expired', 'cancelled') or first_sent_at is null or resolved_by is not null),
    constraint operation_unresolved_is_in_doubt check (state <> 'unresolved' or first_sent_at is not null),
    constraint operation_succeeded_was_sent check (state <> 'succeeded' or first_sent_at is not null),
    constraint operation_succeeded_has_answer check (state <> 'succeeded' or response_status is not null or resolved_by is not null)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

comment on table outbox.operation is 'The outbox: one row for each thing to be done in the world, with the key it will be done under';
comment on column outbox.operation.id is 'Number of the operation';
comment on column outbox.operation.account is 'Which account it is done with';
comment on column outbox.operation.app_id is 'The account''s APP ID, frozen at enqueue';
comment on column outbox.operation.endpoint is 'Which API method it calls';
comment on column outbox.operation.idempotency_key is 'Sent with every attempt; assigned before anything is sent, never changed, never reused';
comment on column outbox.operation.payload is 'The body, exactly as it was written (json keeps the text); scrubbed some time after the operation is final';
comment on column outbox.operation.payload_sha256 is 'SHA-256 of the body''s UTF-8 bytes; stays for as long as the row';
comment on column outbox.operation.lane is 'Fairness: work in one lane cannot starve another';
comment on column outbox.operation.priority is '0 is the most urgent, 3 the least; within one lane';
comment on column outbox.operation.state is 'Where it stands';
comment on column outbox.operation.next_attempt_at is 'Not claimed before this; set while queued';
comment on column outbox.operation.deadline_at is 'No attempt starts after this; null: none';
comment on column outbox.operation.attempt_count is 'Attempts counted against the endpoint''s max_attempts; those that sent nothing or were throttled are given back';
comment on column outbox.operation.attempt_number is 'Number of the latest attempt; never given back';
comment on column outbox.operation.first_sent_at is 'Start of the earliest attempt that may have been executed (in flight, the claim counts); null: certainly none';
comment on column outbox.operation.key_window_closes_at is 'first_sent_at + key_ttl - key_safety: from then on the key may protect no longer';
comment on column outbox.operation.settles_at is 'The API may still be busy with the attempt before, until this';
comment on column outbox.operation.url is 'Where it is sent, frozen by the first claim';
comment on column outbox.operation.key_header is 'Name of the key''s header, frozen by the first claim';
comment on column outbox.operation.lease_token is 'Whoever holds this may send and record; fresh with every claim';
comment on column outbox.operation.lease_expires_at is 'When the lease ends by itself';
comment on column outbox.operation.leased_by is 'The worker process that holds the lease: node/pid';
comment on column outbox.operation.response_status is 'HTTP status of the answer that decided it';
comment on column outbox.operation.response_headers is 'Its headers, in order: [[name, value], ...], each byte one character (Latin-1)';
comment on column outbox.operation.response_body is 'Its body, byte for byte';
comment on column outbox.operation.provider_id is 'The id the API gave it (voice_id, broadcast_id, job_id)';
comment on column outbox.operation.last_error is 'What went wrong last, in one line';
comment on column outbox.operation.last_answer_sha256 is 'Hash of the last whole answer that did not settle it: over status and body, or over the status alone if it throttles';
comment on column outbox.operation.repeat_count is 'How often in a row that answer came: an error cached under the key repeats';
comment on column outbox.operation.reissue_of is 'The operation it does again under a new key; each can be reissued once';
comment on column outbox.operation.resolved_by is 'The action by which a person, or a webhook that proves it, settled it';
comment on column outbox.operation.last_action is 'The latest action of an administrator on it';
comment on column outbox.operation.on_done is 'Name of a task of the app''s, sent to the app''s own queue whenever it has become final (outbox.announcement)';
comment on column outbox.operation.awaited is 'Somebody waits for it (outbox.expect): NOTIFY tells when it is final or unresolved';
comment on column outbox.operation.traceparent is 'W3C trace context of the producer, sent on with the call';
comment on column outbox.operation.enqueued_by is 'The session user that enqueued it, or what it is a reissue of; may see its result';
comment on column outbox.operation.created_at is 'When it was enqueued';
comment on column outbox.operation.finished_at is 'When it became final; null while it is not';

-- Each index is named for its reader.
-- (created_at, so that outbox.status need not read the rows: with a million scheduled beside ten million finished it read the whole table.)
create index operation_to_claim on outbox.operation (account, endpoint, lane, priority, next_attempt_at, id) include (created_at) where state = 'queued';
-- An expression, so that no query about lanes is ever planned over this one.
create index operation_next_due on outbox.operation ((account || ' ' || endpoint), next_attempt_at) where state = 'queued';
create index operation_in_flight on outbox.operation (lease_expires_at, account, endpoint) where state = 'in_flight';
create index operation_window_to_close on outbox.operation (key_window_closes_at) where state = 'queued' and first_sent_at is not null;
create index operation_deadline_to_pass on outbox.operation (deadline_at) where state = 'queued' and deadline_at is not null;
create unique index operation_reissue_of_key on outbox.operation (reissue_of) where reissue_of is not null;
create index operation_unresolved on outbox.operation (id) where state = 'unresolved';
create index operation_not_executed on outbox.operation (state, id) where state in ('failed', 'expired', 'cancelled');
create index operation_finished on outbox.operation (account, endpoint, finished_at) where finished_at is not null;
create index operation_to_scrub on outbox.operation (finished_at) where finished_at is not null and payload is not null;
create index operation_of_provider on outbox.operation (provider_id) where provider_id is not null;  -- a person who has only their number of it
create index operation_to_purge on outbox.operation (finished_at) where finished_at is not null and payload is null;

create table outbox.attempt (
    operation_id     bigint not null references outbox.operation (id) on delete cascade,
    number           integer not null check (number > 0),
    lease_token      uuid not null,
    leased_by        text not null,
    started_at       timestamptz not null,
    finished_at      timestamptz constraint attempt_ends_after_its_start check (finished_at >= started_at),
    recorded         boolean not null default false,
    late             boolean not null default false,
    verdict          outbox.verdict,
    phase            outbox.phase,
    status           integer check (status between 100 and 999),
    error            text check (octet_length(error) <= 4000),
    provider_id      text check (char_length(provider_id) between 1 and 255),
    body_sha256      bytea check (octet_length(body_sha256) = 32),
    late_body        bytea,
    disproved        boolean not null default false,
    doubt            boolean not null generated always as
                     (not disproved and (verdict is null or verdict = 'accepted'
                      or (verdict = 'ambiguous' and status is distinct from 409))) stored,
    primary key (operation_id, number),
    constraint attempt_verdict_when_finished check ((verdict is null) = (finished_at is null)),
    constraint attempt_status_when_answered check (status is null or phase is not distinct from 'answered'),
    constraint attempt_not_sent_sent_nothing check (verdict <> 'not_sent' or phase is not distinct from 'connecting'),
    constraint attempt_accepted_was_answered check (verdict <> 'accepted' or (phase is not distinct from 'answered' and not disproved)),
    constraint attempt_recorded_has_phase check (not recorded or phase is not null)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
comment on table outbox.attempt is 'Every HTTP try: written by the claim before anything is sent (law 1), completed by the record';
comment on column outbox.attempt.operation_id is 'The operation';
comment on column outbox.attempt.number is 'Number of the try; never reused, even when the try is given back';
comment on column outbox.attempt.lease_token is 'Only the holder of this may record the try (law 5)';
comment on column outbox.attempt.leased_by is 'The worker process that made it: node/pid';
comment on column outbox.attempt.started_at is 'When it was claimed: it can have been sent no earlier';
comment on column outbox.attempt.finished_at is 'When it ended, as far as we know; null: open';
comment on column outbox.attempt.recorded is 'Its worker told what came of it; false for one that was cut off by its lease';
comment on column outbox.attempt.late is 'Told after the lease was lost: evidence that changed nothing final';
comment on column outbox.attempt.verdict is 'What it means for the operation';
comment on column outbox.attempt.phase is 'How far it got; null: its worker was lost';
comment on column outbox.attempt.status is 'HTTP status of a whole answer';
comment on column outbox.attempt.error is 'What went wrong, in one line';
comment on column outbox.attempt.provider_id is 'The id in its answer';
comment on column outbox.attempt.body_sha256 is 'SHA-256 of the answer''s body';
comment on column outbox.attempt.late_body is 'The body of a late accepted answer, kept as evidence';
comment on column outbox.attempt.disproved is 'A later answer proved that it was not executed';
comment on column outbox.attempt.doubt is 'It was executed, or may have been (a whole 409 says that another one may have been, not this one)';
create index attempt_in_conflict on outbox.attempt (operation_id) where late;  -- no verdict, which every record would change in it

-- Retention: what is kept for longer than its time ---------------------------------------------------------------------

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
    purge_from      timestamptz,
    webhook_from    timestamptz
);
comment on table outbox.retention is 'What retention waits for, and where it goes on; one row. How long anything is kept is a setting of the workers';
comment on column outbox.retention.only_row is 'There is one row';
comment on column outbox.retention.only_exported is 'Nothing is scrubbed or deleted that was not exported (outbox.require_export)';
comment on column outbox.retention.exported_until is 'Whatever became final before this has been exported (outbox.note_export); null: nothing';
comment on column outbox.retention.scrub_from is 'All that has its payload and became final before this is under a legal hold: scrub() does not walk over it again; null: not known';
comment on column outbox.retention.purge_from is 'The same of what was scrubbed, and of purge()';
comment on column outbox.retention.webhook_from is 'All webhooks that came before this tell of what is under a legal hold: forget_webhooks() does not walk over them again; null: not known';
insert into outbox.retention default values;

create function outbox.is_held(operation_id bigint, account text, lane text) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select exists (select from outbox.legal_hold h where h.operation_id = is_held.operation_id)
        or exists (select from outbox.legal_hold h
                    where h.operation_id is null and (h.account is null or h.account = is_held.account) and (h.lane is null or h.lane = is_held.lane))
$$;
comment on function outbox.is_held is 'Whether an operation is under a legal hold: itself, or with its account or its lane';

create table outbox.finished_count (
    account   text collate "C" not null,
    endpoint  text collate "C" not null,
    state     outbox.state not null,
    count     bigint not null
);
comment on table outbox.finished_count is 'How many operations became final, as deltas that only get added; upkeep folds them together';
comment on column outbox.finished_count.account is 'The account';
comment on column outbox.finished_count.endpoint is 'The endpoint';
comment on column outbox.finished_count.state is 'The final state';
comment on column outbox.finished_count.count is 'How many became it; negative: an administrator moved some out of it';
-- It has no key: whole rows are told, or whoever publishes all tables could delete none of it.
alter table outbox.finished_count replica identity full;

create table outbox.attempt_count (
    minute    timestamptz not null,
    verdict   outbox.verdict not null,
    duration  integer not null check (duration between 0 and 200),
    count     bigint not null
);
comment on table outbox.attempt_count is
    'How many attempts ended, as deltas that only get added; upkeep folds them together, and forgets them after an hour. outbox.throughput reads them, and not a million attempts';
comment on column outbox.attempt_count.minute is 'Start of the minute in which they were claimed';
comment on column outbox.attempt_count.verdict is 'The verdict';
comment on column outbox.attempt_count.duration is 'From claim to record: at most 2 ^ (duration / 4) ms, and more than the number before says, if there is one';
comment on column outbox.attempt_count.count is 'How many; negative: a late report gave some another verdict';
alter table outbox.attempt_count replica identity full;

create table outbox.announcement (
    id               bigint generated always as identity primary key,
    operation_id     bigint not null,  -- refers to nothing: what is still to be told keeps no operation from being purged
    task             text not null,
    task_id          uuid not null default gen_random_uuid(),
    idempotency_key  text collate "C" not null,
    state            outbox.state not null,
    created_at       timestamptz not null default clock_timestamp(),
    next_attempt_at  timestamptz not null default clock_timestamp(),
    attempt_count    integer not null default 0
) with (autovacuum_vacuum_scale_factor = 0.02);
comment on table outbox.announcement is
    'Tasks of apps (on_done) that are still to be sent: written by the transaction that makes an operation final, deleted once the app''s broker has taken the task';
comment on column outbox.announcement.id is 'Number of the announcement';
comment on column outbox.announcement.operation_id is 'The operation that became final';
comment on column outbox.announcement.task is 'Name of the task: its on_done';
comment on column outbox.announcement.task_id is 'Id of the task, the same however often it is sent';
comment on column outbox.announcement.idempotency_key is 'Key of the operation';
comment on column outbox.announcement.state is 'The final state';
comment on column outbox.announcement.created_at is 'When the operation became final';
comment on column outbox.announcement.next_attempt_at is 'Not sent before this; while a worker sends it: when another one takes it for lost, and sends it again';
comment on column outbox.announcement.attempt_count is 'How often a worker has tried to send it';
create index announcement_to_send on outbox.announcement (next_attempt_at);

create table outbox.worker (
    node              text not null check (octet_length(node) between 1 and 255),
    pid               integer not null,
    version           text not null,
    slots             integer not null check (slots >= 0),
    on_duty_since     timestamptz not null default clock_timestamp(),
    seen_at           timestamptz not null default clock_timestamp(),
    lease_expires_at  timestamptz not null check (outbox.is_plausible(lease_expires_at)),
    primary key (node, pid)
);
comment on table outbox.worker is 'Who is alive: every worker''s main process says so about once a poll. The one longest on duty rings for the fleet';
comment on column outbox.worker.node is 'Name of the machine or pod';
comment on column outbox.worker.pid is 'Process id there';
comment on column outbox.worker.version is 'Version of ringonce';
comment on column outbox.worker.slots is 'Drains it can run at once';
comment on column outbox.worker.on_duty_since is 'Since when it has been on duty without a break';
comment on column outbox.worker.seen_at is 'When it was last heard of';
comment on column outbox.worker.lease_expires_at is 'After this it counts as gone, until it is heard of again';

-- Triggers: what a row may become -------------------------------------------------------------------------------------

create function outbox.operation_is_born() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    owner outbox.account;
    standard interval;
    kind text;
begin
    select * into owner from outbox.account where name = new.account;
    if not found then
        raise exception 'there is no account %', coalesce(quote_literal(new.account), 'null')
            using errcode = 'RO002', hint = 'Add a row to outbox.account, or name one that exists.';
    end if;
    select default_deadline into standard from outbox.endpoint where name = new.endpoint;
    if not found then
        raise exception 'there is no endpoint %', coalesce(quote_literal(new.endpoint), 'null')
            using errcode = 'RO001', hint = 'Name a row of outbox.endpoint, or add one.';
    end if;
    if new.app_id is distinct from owner.app_id and new.app_id is not null then
        raise exception 'the APP ID of account % is another one', quote_literal(new.account) using errcode = 'RO002';
    end if;
    new.app_id := owner.app_id;

    if new.idempotency_key is null or not outbox.is_key(new.idempotency_key) then
        raise exception 'an idempotency key is 1 to 255 visible ASCII characters' using errcode = 'RO003',
            hint = 'Use a UUID v4, or v5 made from your own key; or leave it out and one is made.';
    end if;
    if not owner.allow_guessable_keys and outbox.is_guessable(new.idempotency_key) then
        raise exception 'the idempotency key % looks like a sequence or a time, which are easily reused', quote_literal(new.idempotency_key)
            using errcode = 'RO003',
            hint = 'Use a UUID v4, or v5 made from your own key; or set allow_guessable_keys on the account.';
    end if;

    if new.payload is null then
        raise exception 'the payload is missing' using errcode = 'RO004', hint = 'Give a JSON object.';
    end if;
    if octet_length(new.payload::text) > 1048576 then
        raise exception 'the payload has % bytes, more than 1 MiB', octet_length(new.payload::text) using errcode = 'RO004';
    end if;
    begin
        kind := jsonb_typeof(new.payload::jsonb);
    exception when data_exception or program_limit_exceeded then
        raise exception 'the payload cannot be read back as jsonb: %', sqlerrm using errcode = 'RO004',
            hint = 'Leave out the character NUL, lone surrogates, numbers beyond numeric and nesting thousands deep.';
    end;
    if kind is distinct from 'object' then
        raise exception 'the payload is %, not a JSON object', coalesce('a JSON ' || kind, 'missing') using errcode = 'RO004';
    end if;
    new.payload_sha256 := sha256(convert_to(new.payload::text, 'UTF8'));

    if new.lane is null or char_length(new.lane) > 100 or new.lane ~ '[[:cntrl:]]' then
        raise exception 'a lane is up to 100 printable characters' using errcode = 'RO007';
    end if;
    if new.priority is null or new.priority not between 0 and 3 then
        raise exception 'a priority is one of 0 (the most urgent) to 3' using errcode = 'RO007';
    end if;
    if new.on_done ~ '[^!-~]' or octet_length(new.on_done) not between 1 and 200 then
        raise exception 'on_done is the name of a task: 1 to 200 visible ASCII characters' using errcode = 'RO007';
    end if;
    if not outbox.is_traceparent(new.traceparent) then
        raise exception 'traceparent is not one of W3C Trace Context' using errcode = 'RO007',
            hint = 'It is 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in lower case; or leave it out.';
    end if;

    if not outbox.is_plausible(new.next_attempt_at) or not outbox.is_plausible(new.deadline_at) then
        raise exception 'not_before and deadline are finite times from 2000 to before 9999' using errcode = 'RO006';
    end if;
    -- Not earlier than now: a start in the past would overtake what waits, and show as a backlog of years.
    new.next_attempt_at := greatest(new.next_attempt_at, clock_timestamp());
    if new.deadline_at is null and outbox.is_plausible(new.next_attempt_at + standard) then
        new.deadline_at := new.next_attempt_at + standard;
    end if;
    -- A key that is known is not judged by the clock again: an enqueue may be repeated after its deadline.
    if new.deadline_at <= new.next_attempt_at and not exists (
        select from outbox.operation o where o.app_id = new.app_id and o.idempotency_key = new.idempotency_key) then
        raise exception 'the deadline % does not lie after %, when it may first be sent', new.deadline_at, new.next_attempt_at
            using errcode = 'RO006', hint = 'Set a later deadline, or leave the operation out.';
    end if;

    if new.state is distinct from 'queued' or new.attempt_count <> 0 or new.attempt_number <> 0 or new.first_sent_at is not null
       or new.url is not null or new.key_header is not null or new.settles_at is not null or new.response_status is not null
       or new.response_headers is not null or new.response_body is not null or new.provider_id is not null or new.last_error is not null
       or new.last_answer_sha256 is not null or new.repeat_count <> 0 or new.finished_at is not null or new.resolved_by is not null
       or new.last_action is not null then
        raise exception 'an operation is born queued, unsent and unanswered' using errcode = 'RO009';
    end if;
    new.created_at := clock_timestamp();
    -- A reissue remains the producer's own, whoever reissued it (the audit tells that).
    new.enqueued_by := coalesce((select r.enqueued_by from outbox.operation r where r.id = new.reissue_of), session_user);
    return new;
end $$;
comment on function outbox.operation_is_born is 'Trigger: refuses what cannot be processed, freezes APP ID and hash, whoever inserts';
create trigger operation_is_born before insert on outbox.operation for each row execute function outbox.operation_is_born();

create function outbox.operation_request_is_frozen() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if new.id <> old.id or new.account <> old.account or new.app_id <> old.app_id or new.endpoint <> old.endpoint
       or new.idempotency_key <> old.idempotency_key or new.payload_sha256 <> old.payload_sha256
       or new.created_at <> old.created_at or new.enqueued_by <> old.enqueued_by
       or (new.reissue_of is distinct from old.reissue_of
           and (new.reissue_of is not null or exists (select from outbox.operation o where o.id = old.reissue_of)))
       or (old.url is not null and new.url is distinct from old.url)
       or (old.key_header is not null and new.key_header is distinct from old.key_header)
       or (new.payload::text is distinct from old.payload::text and (new.payload is not null or old.finished_at is null)) then
        raise exception 'operation %: key, APP ID, account, endpoint, URL, key header, payload and origin are frozen', old.id
            using errcode = 'RO010', hint = 'A corrected request is a new operation with a new key.';
    end if;
    return new;
end $$;
comment on function outbox.operation_request_is_frozen is
    'Trigger: every send of an operation is the same request (law 2); the payload of a final one may be scrubbed';
create trigger operation_request_is_frozen
    before update of id, account, app_id, endpoint, idempotency_key, payload, payload_sha256, created_at, enqueued_by, reissue_of
    on outbox.operation
    for each row execute function outbox.operation_request_is_frozen();
create trigger operation_destination_is_frozen before update of url, key_header on outbox.operation
    for each row when (old.url is not null and (new.url is distinct from old.url or new.key_header is distinct from old.key_header))
    execute function outbox.operation_request_is_frozen();

create function outbox.operation_final_is_final() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if new.last_action is not distinct from old.last_action or not exists (
        select from outbox.action a
         where a.id = new.last_action and a.operation_id = new.id and a.transaction = pg_current_xact_id()) then
        raise exception 'operation % is %: final is final', old.id, old.state using errcode = 'RO011',
            hint = 'Only outbox.retry() moves an operation out of a final state, with a reason.';
    end if;
    return new;
end $$;
comment on function outbox.operation_final_is_final is 'Trigger: only an audited action moves an operation out of a final state (law 6)';
create trigger operation_final_is_final before update on outbox.operation
    for each row when (old.finished_at is not null and (new.state <> old.state or new.finished_at is distinct from old.finished_at
        or new.response_status is distinct from old.response_status or new.provider_id is distinct from old.provider_id
        or new.resolved_by is distinct from old.resolved_by
        or (new.response_headers is distinct from old.response_headers and (new.response_headers is not null or new.payload is not null))
        or (new.response_body is distinct from old.response_body and (new.response_body is not null or new.payload is not null))))
    execute function outbox.operation_final_is_final();

create function outbox.operation_is_resolved_by_a_person() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from outbox.action a where a.id = new.resolved_by and a.operation_id = new.id and a.name = 'resolve') then
        raise exception 'action % did not resolve operation %', new.resolved_by, new.id using errcode = 'RO009', hint = 'Use outbox.resolve().';
    end if;
    return new;
end $$;
comment on function outbox.operation_is_resolved_by_a_person is 'Trigger: what was in doubt ends as not executed by outbox.resolve() alone (law 6); as executed, by a webhook that proves it, too';
create trigger operation_is_resolved_by_a_person before update on outbox.operation
    for each row when (new.resolved_by is not null and new.resolved_by is distinct from old.resolved_by)
    execute function outbox.operation_is_resolved_by_a_person();

create function outbox.operation_doubt_stays() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from outbox.attempt a
                where a.operation_id = new.id and a.doubt and a.started_at < coalesce(new.first_sent_at, 'infinity')) then
        raise exception 'operation %: an attempt that may have been executed started before %', new.id, coalesce(new.first_sent_at::text, 'that')
            using errcode = 'RO010', hint = 'first_sent_at follows from outbox.attempt; only what is recorded there takes doubt away.';
    end if;
    if new.key_window_closes_at > new.first_sent_at + (select e.key_ttl - e.key_safety from outbox.endpoint e where e.name = new.endpoint) then
        raise exception 'operation %: its key protects no longer than key_ttl - key_safety from first_sent_at on', new.id using errcode = 'RO010';
    end if;
    return new;
end $$;
comment on function outbox.operation_doubt_stays is 'Trigger: no key window is opened again while an attempt may have been executed (law 3)';
create trigger operation_doubt_stays before update of first_sent_at, key_window_closes_at on outbox.operation
    for each row when (new.first_sent_at > old.first_sent_at or (new.first_sent_at is null and old.first_sent_at is not null)
        or new.key_window_closes_at > old.key_window_closes_at)
    execute function outbox.operation_doubt_stays();

create function outbox.operation_waits_its_turn() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if old.settles_at > clock_timestamp() and (new.settles_at is null or new.settles_at < old.settles_at) then
        raise exception 'operation %: the API may be busy with the attempt before until %', new.id, old.settles_at using errcode = 'RO010';
    end if;
    if exists (select from outbox.attempt a where a.operation_id = new.id and a.verdict is null) then
        raise exception 'operation % has an open attempt: another one now could run beside it', new.id using errcode = 'RO009',
            hint = 'Wait for the worker to record it, or for outbox.rescue() once its lease has expired.';
    end if;
    return new;
end $$;
comment on function outbox.operation_waits_its_turn is 'Trigger: nothing is queued beside an open attempt, or before the API is done with the one before (law 4)';
create trigger operation_waits_its_turn before update of state, settles_at on outbox.operation
    for each row when (new.state = 'queued' and (old.state <> 'queued' or new.settles_at is distinct from old.settles_at))
    execute function outbox.operation_waits_its_turn();

create function outbox.operation_is_not_lost() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'TRUNCATE' then
        raise exception 'outbox.operation holds the keys: it is not truncated' using errcode = 'RO011';
    end if;
    if old.finished_at is null or old.finished_at > clock_timestamp() - (select e.key_ttl from outbox.endpoint e where e.name = old.endpoint) then
        raise exception 'operation % is not final, or its key may still be known to the API', old.id using errcode = 'RO011',
            hint = 'Rows go when they are final and older than the key_ttl of their endpoint.';
    end if;
    return old;
end $$;
comment on function outbox.operation_is_not_lost is 'Trigger: no key is forgotten while it may be in use';
create trigger operation_is_not_lost before delete on outbox.operation for each row execute function outbox.operation_is_not_lost();
create trigger operation_is_not_lost_whole before truncate on outbox.operation for each statement execute function outbox.operation_is_not_lost();

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

create function outbox.attempt_stays() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'attempt % of operation % is on record', old.number, old.operation_id using errcode = 'RO010';
end $$;
comment on function outbox.attempt_stays is 'Trigger: an attempt keeps its number, token and start, and is recorded once (law 5)';
create trigger attempt_stays before update on outbox.attempt
    for each row when (new.operation_id <> old.operation_id or new.number <> old.number or new.lease_token <> old.lease_token
        or new.started_at <> old.started_at or new.leased_by <> old.leased_by
        or (old.recorded and (new.verdict is distinct from old.verdict or not new.recorded or new.late <> old.late
        or new.finished_at is distinct from old.finished_at or new.phase is distinct from old.phase
        or new.error is distinct from old.error or new.status is distinct from old.status
        or new.provider_id is distinct from old.provider_id or new.body_sha256 is distinct from old.body_sha256)))
    execute function outbox.attempt_stays();

create function outbox.attempt_is_not_lost() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'TRUNCATE' or exists (select from outbox.operation o where o.id = old.operation_id) then
        raise exception 'attempts go with their operation, and not before it: they tell what may have been executed' using errcode = 'RO010';
    end if;
    return old;
end $$;
comment on function outbox.attempt_is_not_lost is 'Trigger: an attempt is forgotten with its operation only (law 3)';
create trigger attempt_is_not_lost before delete on outbox.attempt for each row execute function outbox.attempt_is_not_lost();
create trigger attempt_is_not_lost_whole before truncate on outbox.attempt for each statement execute function outbox.attempt_is_not_lost();

create function outbox.attempt_is_disproved_by_a_refusal() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from outbox.attempt a where a.operation_id = new.operation_id and a.number > new.number
                      and a.recorded and a.verdict = 'refused') then
        raise exception 'no later refusal disproves attempt % of operation %', new.number, new.operation_id using errcode = 'RO010';
    end if;
    return new;
end $$;
comment on function outbox.attempt_is_disproved_by_a_refusal is 'Trigger: only an answer takes the doubt of an earlier attempt away (law 3)';
create trigger attempt_is_disproved_by_a_refusal before update of disproved on outbox.attempt
    for each row when (new.disproved and not old.disproved) execute function outbox.attempt_is_disproved_by_a_refusal();

create function outbox.attempt_counts() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into outbox.attempt_count (minute, verdict, duration, count)
    select date_trunc('minute', started_at), verdict,
           greatest(0, ceil(4 * ln(1000 * greatest(date_part('epoch', finished_at - started_at), 0.001)) / ln(2)))::integer, sum(step)
      from (select started_at, finished_at, verdict, 1 as step from after_rows where finished_at is not null
            union all
            select started_at, finished_at, verdict, -1 from before_rows where finished_at is not null) as steps
     group by 1, 2, 3
    having sum(step) <> 0;
    return null;
end $$;
comment on function outbox.attempt_counts is 'Trigger: adds to outbox.attempt_count what a statement ended';
create trigger attempt_counts after update on outbox.attempt
    referencing old table as before_rows new table as after_rows
    for each statement execute function outbox.attempt_counts();

create function outbox.operation_counts() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into outbox.finished_count (account, endpoint, state, count)
    select account, endpoint, state, sum(step)
      from (select account, endpoint, state, 1 as step from after_rows where finished_at is not null
            union all
            select account, endpoint, state, -1 from before_rows where finished_at is not null) as steps
     group by account, endpoint, state
    having sum(step) <> 0;
    return null;
end $$;
comment on function outbox.operation_counts is 'Trigger: adds to outbox.finished_count what a statement finished';
create trigger operation_counts after update on outbox.operation
    referencing old table as before_rows new table as after_rows
    for each statement execute function outbox.operation_counts();

create function outbox.operation_has_its_attempt() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    odd outbox.operation;
begin
    -- Once for the statement; each attempt looked up by a subselect, which leaves the planner no other way.
    select n.* into odd from after_rows n
     where n.state = 'in_flight'
       and (select a.lease_token = n.lease_token and a.verdict is null from outbox.attempt a
             where a.operation_id = n.id and a.number = n.attempt_number) is not true
     limit 1;
    if found then
        raise exception 'operation % has no open attempt under its lease', odd.id using errcode = 'RO010',
            hint = 'A claim writes the attempt before anything is sent.';
    end if;
    select n.* into odd from after_rows n
     where n.state = 'succeeded' and n.resolved_by is null and n.payload is not null  -- without one it was succeeded before
       and (select true from outbox.attempt a where a.operation_id = n.id and a.verdict = 'accepted' limit 1) is not true
     limit 1;
    if found then
        raise exception 'operation % has no accepted attempt', odd.id using errcode = 'RO010', hint = 'Use outbox.resolve() for what you found out.';
    end if;
    return null;
end $$;
comment on function outbox.operation_has_its_attempt is
    'Trigger: what is in flight has an open attempt (law 1), and what succeeded one that was accepted, or a person who says so';
create trigger operation_has_its_attempt after update on outbox.operation referencing new table as after_rows
    for each statement execute function outbox.operation_has_its_attempt();

create function outbox.operation_rings() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    notify ringonce;
    return null;
end $$;
comment on function outbox.operation_rings is
    'Trigger: wakes the workers when something was enqueued. `alter table outbox.operation disable trigger operation_rings` makes them poll instead';
create trigger operation_rings after insert on outbox.operation for each statement execute function outbox.operation_rings();

create function outbox.operation_ends() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    ended_before bigint[];
begin
    -- One look for the statement: row by row, even with a condition, it would be 3 us for each that nobody asked about.
    if not exists (select from after_rows n where n.on_done is not null or n.awaited) then
        return null;
    end if;
    ended_before := array(select b.id from before_rows b where b.finished_at is not null);
    insert into outbox.announcement (operation_id, task, idempotency_key, state)
    select n.id, n.on_done, n.idempotency_key, n.state from after_rows n
     where n.on_done is not null and n.finished_at is not null and n.id <> all (ended_before);
    perform pg_notify('ringonce_' || n.id, '') from after_rows n
     where n.awaited and n.state not in ('queued', 'in_flight') and n.id <> all (ended_before);
    return null;
end $$;
comment on function outbox.operation_ends is
    'Trigger: whatever makes an operation with on_done final leaves, in the same transaction, what its app is to be told; and whoever waits for one (outbox.expect) is
woken when it is final or unresolved, by the channel ringonce_<id>, without content';
create trigger operation_ends after update on outbox.operation
    referencing old table as before_rows new table as after_rows
    for each statement execute function outbox.operation_ends();

-- Producers -----------------------------------------------------------------------------------------------------------

create type outbox.enqueued as (id bigint, idempotency_key text, created boolean, state outbox.state);
comment on type outbox.enqueued is 'What enqueue returns: the operation, its key, whether this call created it, and where it stands';

create function outbox.is_another_request(known outbox.operation, account text, endpoint text, payload json) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp
    return (known).account <> account or (known).endpoint <> endpoint
        or (known).payload_sha256 <> sha256(convert_to(payload::text, 'UTF8'));
comment on function outbox.is_another_request is 'Whether account, endpoint or text differ from those that the key already stands for (law 2)';

create function outbox.refuse_another_request(known outbox.operation) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'the key % already stands for another request (operation %)', quote_literal(known.idempotency_key), known.id
        using errcode = 'RO005',
        hint = 'The API would ignore the new body and answer the old one: give each operation a key of its own.';
end $$;
comment on function outbox.refuse_another_request is 'Raises, since the key already stands for another request (law 2)';

create function outbox.enqueue(
    endpoint text, payload json, account text default 'default', idempotency_key text default null, lane text default '',
    priority integer default 1, not_before timestamptz default null, deadline timestamptz default null,
    on_done text default null, traceparent text default null)
    returns outbox.enqueued
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
declare
    -- In "C", as the columns are: a caller's column may be in any collation.
    key text collate "C" := coalesce(enqueue.idempotency_key, gen_random_uuid()::text);
    owner text collate "C" := coalesce(enqueue.account, 'default');
    target text collate "C" := enqueue.endpoint;
    known outbox.operation;
    result outbox.enqueued;
begin
    for round in 1..100 loop
        insert into outbox.operation as o (account, app_id, endpoint, idempotency_key, payload, lane, priority, next_attempt_at,
                                           deadline_at, on_done, traceparent)
        values (owner, null, target, key, enqueue.payload, coalesce(enqueue.lane, ''),
                greatest(-1, least(4, coalesce(enqueue.priority, 1))), enqueue.not_before, enqueue.deadline, enqueue.on_done, enqueue.traceparent)
        on conflict on constraint operation_key_is_unique do nothing
        returning o.id, o.idempotency_key, true, o.state into result;
        if found then
            return result;
        end if;
        -- A second statement, because the row that was in the way may be newer than the snapshot of the first.
        select o.* into known from outbox.operation o
         where o.app_id = (select a.app_id from outbox.account a where a.name = owner) and o.idempotency_key = key;
        if found then
            if outbox.is_another_request(known, owner, target, enqueue.payload) then
                perform outbox.refuse_another_request(known);
            end if;
            return (known.id, known.idempotency_key, false, known.state)::outbox.enqueued;
        end if;
    end loop;
    raise exception 'the key % came and went a hundred times', quote_literal(key) using errcode = '40001';
end $$;
comment on function outbox.enqueue is
    'Writes one operation in the caller''s transaction: commit sends it, rollback leaves nothing. The same key with the same account,
endpoint and text returns the first operation; with anything else it is refused. A NULL means the default; without a key a UUID v4 is made';

create function outbox.spread(given anyarray, size integer) returns anyarray
    language sql immutable set search_path = pg_catalog, pg_temp as $$
    select case when cardinality(given) = 1 then array_fill((select one.value from unnest(given) as one (value)), array[size]) else given end
$$;
comment on function outbox.spread is 'An array of one element, repeated to a size; any other array as it is';

create function outbox.enqueue_many(
    endpoint text[], payload json[], account text[] default null, idempotency_key text[] default null, lane text[] default null,
    priority integer[] default null, not_before timestamptz[] default null, deadline timestamptz[] default null,
    on_done text[] default null, traceparent text[] default null)
    returns setof outbox.enqueued
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_nestloop = on
    as $$
#variable_conflict use_column
declare
    size integer := coalesce(cardinality(enqueue_many.payload), 0);
    odd text;
    -- In "C", as the columns are: a caller's columns may be in any collation.
    keys text[] collate "C";
    owners text[] collate "C" := outbox.spread(enqueue_many.account, size);
    app_ids text[] collate "C";
    targets text[] collate "C" := outbox.spread(enqueue_many.endpoint, size);
    fresh bigint[] := '{}';
    missing integer;
    known outbox.operation;
begin
    select name into odd from (values
        ('endpoint', cardinality(enqueue_many.endpoint)), ('account', cardinality(enqueue_many.account)),
        ('lane', cardinality(enqueue_many.lane)), ('priority', cardinality(enqueue_many.priority)),
        ('not_before', cardinality(enqueue_many.not_before)), ('deadline', cardinality(enqueue_many.deadline)),
        ('on_done', cardinality(enqueue_many.on_done)), ('traceparent', cardinality(enqueue_many.traceparent)),
        ('idempotency_key', nullif(cardinality(enqueue_many.idempotency_key), size))) as given (name, length)
     where length <> size and (length <> 1 or name = 'idempotency_key') limit 1;
    if odd is not null then
        raise exception '% has another length than payload, which has %', odd, size using errcode = 'RO004',
            hint = 'Give one value for each payload; all but idempotency_key may also be a single value for all.';
    end if;
    if size = 0 then
        return;
    end if;
    select array_agg(coalesce(key, gen_random_uuid()::text) order by place), array_agg(coalesce(owner, 'default') order by place),
           array_agg(a.app_id order by place)
      into keys, owners, app_ids
      from unnest(enqueue_many.payload, enqueue_many.idempotency_key, owners)
           with ordinality as given (body, key, owner, place)
      left join outbox.account a on a.name = coalesce(owner, 'default');

    for round in 1..100 loop
        -- In the order of the unique index: two batches with keys in common wait for each other, and never in a circle.
        with written as (
            insert into outbox.operation as o (account, app_id, endpoint, idempotency_key, payload, lane, priority, next_attempt_at,
                                               deadline_at, on_done, traceparent)
            select r.account, null, r.endpoint, r.key, r.payload, coalesce(r.lane, ''),
                   greatest(-1, least(4, coalesce(r.priority, 1))), r.not_before, r.deadline, r.on_done, r.traceparent
              from unnest(owners, app_ids, targets, keys, enqueue_many.payload, outbox.spread(enqueue_many.lane, size),
                          outbox.spread(enqueue_many.priority, size), outbox.spread(enqueue_many.not_before, size),
                          outbox.spread(enqueue_many.deadline, size), outbox.spread(enqueue_many.on_done, size),
                          outbox.spread(enqueue_many.traceparent, size)) with ordinality as r (
                   account, app_id, endpoint, key, payload, lane, priority, not_before, deadline, on_done, traceparent, place)
             where round = 1 or not exists (select from outbox.operation k where k.app_id = r.app_id and k.idempotency_key = r.key)
             order by r.key, r.app_id, place
            on conflict on constraint operation_key_is_unique do nothing
            returning o.id)
        select fresh || coalesce(array_agg(id), '{}') into fresh from written;

        select count(*) filter (where o.id is null) into missing
          from unnest(app_ids, keys) as r (app_id, key)
          left join outbox.operation o on o.app_id = r.app_id and o.idempotency_key = r.key;
        exit when missing = 0;
    end loop;
    if missing > 0 then
        raise exception '% keys came and went a hundred times', missing using errcode = '40001';
    end if;

    select o.* into known
      from unnest(owners, app_ids, targets, keys, enqueue_many.payload) as r (account, app_id, endpoint, key, payload)
      join outbox.operation o on o.app_id = r.app_id and o.idempotency_key = r.key
     where outbox.is_another_request(o, r.account, r.endpoint, r.payload)
     limit 1;
    if found then
        perform outbox.refuse_another_request(known);
    end if;
    -- Two arrays may be long. Both stand in the SET clause above, which puts them back at the end.
    perform set_config('enable_hashjoin', 'on', true), set_config('enable_nestloop', 'off', true);
    return query
    select (written.row).id, (written.row).idempotency_key,
           f.id is not null and row_number() over (partition by (written.row).id order by place) = 1, (written.row).state
      from (select place, (select (o.id, o.idempotency_key, false, o.state)::outbox.enqueued from outbox.operation o
                            where o.app_id = r.app_id and o.idempotency_key = r.key) as row
              from unnest(app_ids, keys) with ordinality as r (app_id, key, place) offset 0) as written
      left join unnest(fresh) as f (id) on f.id = (written.row).id
     order by place;
end $$;
comment on function outbox.enqueue_many is
    'Writes many operations at once, all or none, and answers in the order of payload. An array of one element holds for all rows; a NULL means the default';

create function outbox.expect(id bigint) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    born_at timestamptz;
begin
    -- Waits for a record that is under way: whoever looks afterwards sees it, and any later one sees this.
    update outbox.operation o set awaited = true
     where o.id = expect.id and o.enqueued_by = session_user and o.finished_at is null and not o.awaited
    returning o.created_at into born_at;
    -- Any later one has to come after this, too, and so has whoever cancels it or adopts a history; claims pass it by.
    -- So whoever does not commit is hung up on. What was born since this transaction began is its own, but for chance:
    -- nobody else knows of that yet.
    if born_at < transaction_timestamp() and current_setting('idle_in_transaction_session_timeout')::interval not between '1 ms' and '5 s' then
        perform set_config('idle_in_transaction_session_timeout', '5s', true);
    end if;
end $$;
comment on function outbox.expect is
    'Has NOTIFY tell when an operation that the session''s own user enqueued is final or unresolved: LISTEN to the channel ringonce_<id>, call this and commit, then look at outbox.result.
Until the commit nobody else can send, record or cancel it: unless it was enqueued in the same transaction, Postgres ends a session that idles for 5 s before it commits';

-- History: is this still the database that the leases were written to? ------------------------------------------------
-- An asynchronous replica that is promoted, and a backup that is restored, have lost the latest commits: rows say
-- "never sent" although they were. No query can tell which, so claims stay shut until the loss has been allowed for.

create table outbox.history (
    only_row           boolean primary key default true check (only_row),
    number             integer not null default 1,
    system_identifier  bigint not null,
    timeline           text not null,
    operation_table    oid not null,
    noted_at           timestamptz not null default clock_timestamp(),
    adopted_at         timestamptz not null default clock_timestamp(),
    doubted_at         timestamptz,
    doubted_reason     text,
    tolerated_loss     interval,
    longest_hold       interval not null default '00:00:30',
    constraint history_durations_are_exact check (outbox.is_exact(tolerated_loss) and outbox.is_exact(longest_hold)),
    constraint history_durations_are_in_bounds check (tolerated_loss >= '0' and longest_hold >= '0' and longest_hold <= '24:00:00'),
    constraint history_doubt_has_reason check ((doubted_at is null) = (doubted_reason is null))
);
comment on table outbox.history is
    'Which cluster, and which of its histories, claims were made in; one row. In another one claims are shut until outbox.adopt_history()';
comment on column outbox.history.only_row is 'There is one row';
comment on column outbox.history.number is 'Rises with each history that is adopted, so that workers notice';
comment on column outbox.history.system_identifier is 'The cluster, as pg_control_system() tells: initdb, and so pg_upgrade, make another';
comment on column outbox.history.timeline is
    'The timeline, as the first 8 digits of a WAL file''s name: every promotion, and every recovery from an archive, begins another';
comment on column outbox.history.operation_table is 'Oid of outbox.operation: a dump that is restored makes another, in the same cluster too';
comment on column outbox.history.noted_at is 'When workers last found this history unchanged: what was committed before is not lost by a promotion';
comment on column outbox.history.adopted_at is 'When this history was adopted; at first, when the schema was made';
comment on column outbox.history.doubted_at is 'Claims are shut since then, although timeline and cluster are the same; null: not';
comment on column outbox.history.doubted_reason is 'Why';
comment on column outbox.history.tolerated_loss is
    'A new timeline is adopted without a person if noted_at is no longer ago than this; null (the default): never';
comment on column outbox.history.longest_hold is 'The longest that a lease of the fleet lasts beyond its call: so long a lost one may still be sent';
insert into outbox.history (system_identifier, timeline, operation_table)
select (pg_control_system()).system_identifier, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), 'outbox.operation'::regclass;

create function outbox.why_shut() returns text
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    h outbox.history;
    timeline text;
begin
    if pg_is_in_recovery() then
        return 'this server is a replica';
    end if;
    select * into h from outbox.history;
    timeline := left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
    return case
        when h.doubted_at is not null then h.doubted_reason
        when h.system_identifier is distinct from (pg_control_system()).system_identifier then 'the database is in another cluster than it was'
        when h.operation_table is distinct from 'outbox.operation'::regclass then 'the database was restored from a dump'
        when h.timeline is distinct from timeline
            then format('a replica was promoted or a backup restored: this is timeline %s, it was %s', timeline, h.timeline) end;
end $$;
comment on function outbox.why_shut is
    'Why nothing is claimed: commits may have been lost, and with them the knowledge of what was sent. Null: claims are open';

create function outbox.refuse_when_shut() returns void
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    shut text := outbox.why_shut();
begin
    if shut is not null then
        raise exception 'claims are shut: %', shut using errcode = 'RO012',
            hint = 'What was sent last may not be on record. See "Promote a replica" in deploy/RUNBOOK.md, then use outbox.adopt_history().';
    end if;
end $$;
comment on function outbox.refuse_when_shut is 'Raises unless claims are open';

create function outbox.keep_claims_out() returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_advisory_xact_lock(74646623, 1);
end $$;
comment on function outbox.keep_claims_out is 'Waits for the claims under way, and keeps others out until the transaction ends';

create function outbox.assume_lost(since timestamptz, out in_doubt_count bigint, out unresolved_count bigint, out newly_unresolved bigint[])
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    hold constant interval := (select h.longest_hold from outbox.history h);
    room constant integer := 100;  -- for the numbers of attempts that are lost: their workers may still tell of them
    ids bigint[];
begin
    -- What was never tried and is not due yet, by any clock that may have been in use, cannot have been claimed.
    -- Whatever was tried may have been tried again.
    select array_agg(row.id) into ids from (
        select o.id from outbox.operation o join outbox.endpoint e on e.name = o.endpoint
         where o.state in ('queued', 'in_flight', 'unresolved') and (o.attempt_number > 0 or o.next_attempt_at <= clock_timestamp() + e.key_safety)
         order by o.id for no key update of o) as row;
    update outbox.attempt a
       set finished_at = greatest(clock_timestamp(), a.started_at), verdict = 'ambiguous', error = 'cut off from its history'
     where a.operation_id = any (ids) and a.verdict is null;
    -- Doubt is derived from attempts, so one stands for all that may have been lost: it began at the earliest when that can have.
    insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at, verdict, error)
    select o.id, o.attempt_number + room, gen_random_uuid(), 'lost', began.at, began.at, 'ambiguous', 'stands for what may be lost with the old history'
      from outbox.operation o
     cross join lateral (
           select least(greatest(o.created_at, since, case when o.attempt_number = 0 then o.next_attempt_at end), clock_timestamp()) as at) as began
     where o.id = any (ids);
    with moved as (
        update outbox.operation o
           set state = v.state, next_attempt_at = case when v.state = 'queued' then v.may_send_at end, settles_at = v.settles_at,
               attempt_number = o.attempt_number + room, first_sent_at = v.since, key_window_closes_at = v.closes_at,
               url = coalesce(o.url, v.url), key_header = coalesce(o.key_header, v.key_header),
               lease_token = null, lease_expires_at = null, leased_by = null,
               last_error = left('may have been sent: the record of it may be lost' || coalesce('; before that: ' || o.last_error, ''), 500)
          from (select i.id, i.state as was, m.*, n.*, d.since, a.base_url || e.path as url, e.key_header,
                       case when i.state = 'unresolved' or (i.state = 'in_flight' and i.attempt_count >= e.max_attempts)
                                 or n.may_send_at >= i.deadline_at or n.may_send_at + e.call_deadline >= m.closes_at
                            then 'unresolved' else 'queued' end::outbox.state as state
                  from outbox.operation i
                  join outbox.endpoint e on e.name = i.endpoint
                  join outbox.account a on a.name = i.account
                 cross join lateral (select min(t.started_at) as since from outbox.attempt t where t.operation_id = i.id and t.doubt) as d
                 cross join lateral (
                       -- Law 4: a lease that is lost may have been taken a moment ago.
                       select d.since + (e.key_ttl - e.key_safety) as closes_at,
                              greatest(i.settles_at, i.lease_expires_at + e.settle, clock_timestamp() + hold + e.call_deadline + e.settle)
                              as settles_at) as m
                 cross join lateral (select greatest(i.next_attempt_at, m.settles_at) as may_send_at) as n
                 where i.id = any (ids)) as v
         where o.id = v.id
        returning o.id, o.state, v.was)
    select count(*), count(*) filter (where state = 'unresolved'), array_agg(id) filter (where state = 'unresolved' and was <> 'unresolved')
      into in_doubt_count, unresolved_count, newly_unresolved from moved;
end $$;
comment on function outbox.assume_lost is
    'Puts every operation in doubt that may have been sent since then without a record: retried under its key while that protects, else unresolved';

create function outbox.begin_history(
    name text, reason text, lost_since timestamptz, out in_doubt_count bigint, out unresolved_count bigint, out newly_unresolved bigint[])
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    h outbox.history;
    now_number integer;
begin
    perform outbox.keep_claims_out();
    select * into h from outbox.history for update;
    in_doubt_count := 0;
    unresolved_count := 0;
    if lost_since is not null then
        select l.* into in_doubt_count, unresolved_count, newly_unresolved from outbox.assume_lost(lost_since) as l;
    end if;
    update outbox.history u
       set number = u.number + 1, doubted_at = null, doubted_reason = null, adopted_at = clock_timestamp(), noted_at = clock_timestamp(),
           system_identifier = (pg_control_system()).system_identifier,
           timeline = left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), operation_table = 'outbox.operation'::regclass
    returning u.number into now_number;
    insert into outbox.action (name, reason, detail)
    values (begin_history.name, begin_history.reason,
            jsonb_build_object('lost_since', lost_since, 'was', to_jsonb(h), 'in_doubt', in_doubt_count, 'unresolved', unresolved_count));
    notify ringonce;
end $$;
comment on function outbox.begin_history is 'Makes the cluster and timeline that this is the known ones, and opens claims; lost_since null: nothing was lost';

create function outbox.note_history(
    hold interval, known_number integer, known_lsn pg_lsn, out shut text, out history_number integer, out lsn pg_lsn, out newly_unresolved bigint[])
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    h outbox.history;
begin
    shut := outbox.why_shut();
    if pg_is_in_recovery() then
        return;
    end if;
    lsn := pg_current_wal_flush_lsn();
    select * into h from outbox.history;
    if shut is null and (h.number < known_number or (h.number = known_number and lsn < known_lsn)) then
        shut := format('a worker remembers more than this database: an old copy was restored (WAL at %s, it was at %s)', lsn, known_lsn);
        perform outbox.doubt(shut);
    elsif shut is null then
        update outbox.history u
           set noted_at = clock_timestamp(), longest_hold = greatest(u.longest_hold, outbox.exact(hold))
         where u.doubted_at is null and (u.noted_at < clock_timestamp() - interval '2 seconds' or u.longest_hold < hold);
    elsif h.doubted_at is null and h.timeline is distinct from left(pg_walfile_name(lsn), 8)
          and h.system_identifier = (pg_control_system()).system_identifier and h.operation_table = 'outbox.operation'::regclass
          and h.noted_at >= clock_timestamp() - h.tolerated_loss and pg_try_advisory_xact_lock(74646623, 1) then
        -- Whoever had the lock before may have adopted it.
        if outbox.why_shut() is not null then
            select b.newly_unresolved into newly_unresolved
              from outbox.begin_history('adopt_history', format('within the tolerated loss of %s', h.tolerated_loss), h.noted_at) as b;
        end if;
        shut := outbox.why_shut();
    end if;
    history_number := (select u.number from outbox.history u);
end $$;
comment on function outbox.note_history is
    'Notes that the history is unchanged, doubts it if a worker remembers more, adopts it if the loss is tolerated. Tells why claims are shut, if they are, what to
remember, and what the adoption left unresolved';

create function outbox.doubt(reason text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    update outbox.history h set doubted_at = clock_timestamp(), doubted_reason = left(doubt.reason, 500) where h.doubted_at is null;
    if found then
        insert into outbox.action (name, reason) values ('doubt_history', doubt.reason);
    end if;
end $$;
comment on function outbox.doubt is 'Shuts claims, unless they were shut by doubt already';

create function outbox.need_reason(reason text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if need_reason.reason is null or need_reason.reason !~ '[^[:space:]]' then
        raise exception 'a reason is missing' using errcode = 'RO009', hint = 'Say why, for whoever reads the audit.';
    elsif octet_length(need_reason.reason) > 4000 then
        raise exception 'a reason has at most 4,000 bytes' using errcode = 'RO009';
    end if;
end $$;
comment on function outbox.need_reason is 'Raises when there is no reason, or a book of them';

create function outbox.doubt_history(reason text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.need_reason(doubt_history.reason);
    if exists (select from outbox.history h where h.doubted_at is not null) then
        insert into outbox.action (name, reason) values ('doubt_history', doubt_history.reason);  -- one more reason
    end if;
    perform outbox.doubt(doubt_history.reason);
end $$;
comment on function outbox.doubt_history is
    'Shuts claims for the whole fleet until the history is adopted or confirmed: for a restored copy, which nobody can tell from what it was copied from';

create function outbox.adopt_history(lost_since timestamptz, reason text, out in_doubt_count bigint, out unresolved_count bigint)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    h outbox.history;
    born_at timestamptz := (select min(v.applied_at) from outbox.schema_version v);
begin
    perform outbox.need_reason(adopt_history.reason);
    perform outbox.keep_claims_out();
    select * into h from outbox.history;
    if outbox.why_shut() is null then
        raise exception 'this is the known history: there is nothing to adopt' using errcode = 'RO009',
            hint = 'If it is a copy that was restored, nothing in it tells: call outbox.doubt_history(reason) first, then this.';
    elsif lost_since is null or not isfinite(lost_since) or lost_since > clock_timestamp() or lost_since < born_at then
        raise exception 'lost_since is a time between %, when the outbox was made, and now', born_at using errcode = 'RO006',
            hint = 'Commits may be missing from then on; what was sent since may not be on record. If nothing was lost: outbox.confirm_history().';
    elsif lost_since > h.noted_at then
        raise exception 'commits may be missing since %, when workers last noted this history', h.noted_at using errcode = 'RO006',
            hint = 'Give that time or an earlier one. If no worker can have claimed anything since, nothing was lost: outbox.confirm_history().';
    end if;
    select b.in_doubt_count, b.unresolved_count into in_doubt_count, unresolved_count
      from outbox.begin_history('adopt_history', adopt_history.reason, adopt_history.lost_since) as b;
end $$;
comment on function outbox.adopt_history is
    'After a promotion or a restore: whatever may have been sent since lost_since is in doubt from then on, retried under its key while that protects, else unresolved;
then claims are open again. Returns how many operations are in doubt by it, and how many of them are unresolved';

create function outbox.confirm_history(reason text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.need_reason(confirm_history.reason);
    perform outbox.keep_claims_out();
    if outbox.why_shut() is null then
        raise exception 'this is the known history: there is nothing to confirm' using errcode = 'RO009';
    end if;
    perform outbox.begin_history('confirm_history', confirm_history.reason, null);
end $$;
comment on function outbox.confirm_history is
    'A person vouches that no commit was lost (planned switchover, synchronous replica, pg_upgrade, dump of a fleet that stood still), or none of a claim: claims are open again';

-- Plans: what workers and producers run has one good plan, a nested loop over a handful of ids by an index, whatever
-- the statistics say. They lie: of a table that was empty a minute ago, of arrays whose length is unknown. So these
-- functions allow nothing else, and plan once for a session: a claim by a plan made for an empty outbox took 30 ms
-- instead of 5, and planning anew took 2 ms of each lone claim. Where operations are named by their ids, "queued" is
-- written next_attempt_at is not null (a check keeps the two the same): with state = 'queued' the planner chose to read
-- a whole index of queued operations: 5 ms, and 19 under somebody's old snapshot, instead of 0.3.

-- Workers: claim ------------------------------------------------------------------------------------------------------
-- Private to outbox_worker: called by worker/store, and changed together with it.

create type outbox.moved as (id bigint, number integer, endpoint text, doubt_since timestamptz, state outbox.state, traceparent text);
comment on type outbox.moved is 'An operation that was moved on without an answer, as a log tells of it. number: of its latest attempt; 0: there was none';

create function outbox.settle_unsendable(operation_ids bigint[]) returns outbox.moved[]
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    update outbox.operation o
       set state = case when o.first_sent_at is null then 'expired' else 'unresolved' end::outbox.state,
           next_attempt_at = null, finished_at = case when o.first_sent_at is null then clock_timestamp() end,
           last_error = left(case when o.deadline_at <= clock_timestamp() then 'the deadline passed'
                                  else 'the key may protect no longer' end || coalesce('; before that: ' || o.last_error, ''), 500)
      from outbox.endpoint e
     where o.id = any (operation_ids) and o.next_attempt_at is not null and e.name = o.endpoint
       and (o.deadline_at <= clock_timestamp() or o.key_window_closes_at <= clock_timestamp() + e.call_deadline);
    if not found then
        return null;  -- nearly every claim ends here
    end if;
    return (select array_agg((o.id, o.attempt_number, o.endpoint, o.first_sent_at, o.state, o.traceparent)::outbox.moved)
              from outbox.operation o where o.id = any (operation_ids) and o.next_attempt_at is null);
end $$;
comment on function outbox.settle_unsendable is
    'Settles those of some queued, locked operations that can never be sent any more: deadline passed, or no whole call fits into the key''s window. In doubt: unresolved; else:
expired. Returns them; null: none';

create type outbox.leased as (
    id bigint, account text, app_id text, endpoint text, endpoint_revision bigint, lane text, url text, key_header text,
    idempotency_key text, payload text, lease_token uuid, number integer, send_within double precision, call_deadline interval, claimed_at timestamptz,
    attempt_count integer, doubt_since timestamptz, key_window_closes_at timestamptz, deadline_at timestamptz,
    last_answer_sha256 bytea, repeat_count integer, other_passed boolean, probe boolean, traceparent text, announces boolean,
    priority smallint, due_at timestamptz, look_seconds double precision);
comment on type outbox.leased is 'A claimed operation: what a worker needs to send it, and to judge the answer. send_within is in seconds; call_deadline is the one that its lease leaves room for, whatever the endpoint says by now; announces: it has on_done; due_at is what next_attempt_at was; look_seconds is what it took to find them.
Without a lease_token it was not leased but settled, as unresolved if doubt_since is known, else as expired, and only what outbox.moved has is told';

create function outbox.lease(operation_ids bigint[], node text, hold interval, probing text[], looked_since timestamptz default clock_timestamp()) returns setof outbox.leased
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return query
    with chosen as (
        select o.id, o.next_attempt_at as due_at, o.first_sent_at as doubt_since, coalesce(o.first_sent_at, c.now) as first_sent_at, c.now, a.base_url, a.app_id,
               coalesce(o.first_sent_at, c.now) + (e.key_ttl - e.key_safety) as closes_at, o.attempt_number as last_number,
               e.call_deadline, e.path, e.key_header, e.revision,
               a.blocked_until is not null or o.account || ' ' || o.endpoint = any (probing) as probe
          from outbox.operation o
          join outbox.endpoint e on e.name = o.endpoint
          join outbox.account a on a.name = o.account
         cross join (select clock_timestamp() as now) c
         where o.id = any (operation_ids) and o.next_attempt_at is not null),
    leased as (
        update outbox.operation o
           set state = 'in_flight', next_attempt_at = null, settles_at = null,
               lease_token = gen_random_uuid(), lease_expires_at = least(c.now + c.call_deadline + hold, c.closes_at), leased_by = node,
               attempt_count = o.attempt_count + 1, attempt_number = o.attempt_number + 1,
               first_sent_at = c.first_sent_at, key_window_closes_at = c.closes_at,
               url = coalesce(o.url, c.base_url || c.path), key_header = coalesce(o.key_header, c.key_header)
          from chosen c
         where o.id = c.id
        returning o.*, c.now, c.due_at, c.doubt_since, c.call_deadline, c.revision, c.probe),
    opened as (
        insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at)
        select id, attempt_number, lease_token, leased_by, now from leased)
    select l.id, l.account, l.app_id, l.endpoint, l.revision, l.lane, l.url, l.key_header, l.idempotency_key, l.payload::text,
           l.lease_token, l.attempt_number,
           extract(epoch from least(l.lease_expires_at - l.call_deadline, l.deadline_at) - l.now)::double precision, l.call_deadline, l.now,
           l.attempt_count, l.doubt_since, l.key_window_closes_at, l.deadline_at, l.last_answer_sha256, l.repeat_count,
           l.repeat_count > 0 and exists (
               select from outbox.operation other
                where other.account = l.account and other.endpoint = l.endpoint and other.state = 'succeeded' and other.finished_at >
                      (select max(t.started_at) from outbox.attempt t where t.operation_id = l.id and t.number < l.attempt_number)),
           l.probe, l.traceparent, l.on_done is not null, l.priority, l.due_at, extract(epoch from l.now - looked_since)::double precision
      from leased l;
end $$;
comment on function outbox.lease is
    'Leases queued operations and opens their attempts (law 1). The lease is cut to the key''s window (law 3); send_within leaves room for one whole call before it ends';

create function outbox.tokens(meter outbox.account_meter, account outbox.account, at timestamptz) returns double precision
    language sql immutable set search_path = pg_catalog, pg_temp
    return case when (account).rate_per_second is not null then  -- least() and greatest() would pass over a null
           least(coalesce((account).burst, greatest(ceil((account).rate_per_second), 1)),
                 case when at >= (meter).refilled_at
                      then (meter).tokens + (account).rate_per_second * extract(epoch from at - (meter).refilled_at)
                      else 'infinity' end) end;  -- the clock was set back: nobody knows for how long it has been filling
comment on function outbox.tokens is 'What is in an account''s token bucket at a time; null: it has no rate';

create function outbox.counts_in_flight(account outbox.account, meter outbox.account_meter) returns boolean
    language sql immutable set search_path = pg_catalog, pg_temp
    return (account).max_in_flight is not null or (account).blocked_until is not null or (meter).probe_at is not null;
comment on function outbox.counts_in_flight is 'Whether it matters how much of an account is in flight: counting reads an index entry for each operation of the last minute';

create type outbox.gate as (name text, allowance integer);
comment on type outbox.gate is 'How many operations of an account, or of "account endpoint", may be claimed now';

create function outbox.gates(max_count integer) returns outbox.gate[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_hashjoin = on as $$
declare
    now timestamptz;
    metered text[];
    result outbox.gate[];
begin
    -- First the meters, in the order of their names; what is then counted is counted under a snapshot newer than the locks.
    -- (The subselect, with its order, is what keeps the planner from reading every queued operation instead of one.)
    select array_agg(locked.account) into metered from (
        select m.account from outbox.account_meter m
         where m.account in (
               select a.name from outbox.account a
                where case when a.paused_at is null  -- in this order: the operations are asked last
                            and (a.max_in_flight is not null or a.rate_per_second is not null or a.blocked_until is not null
                                 or m.probe_at is not null or exists (select from outbox.throttle t where t.account = a.name))
                           then (select true from outbox.operation o where o.state = 'queued' and o.account = a.name
                                  order by o.account, o.endpoint, o.lane limit 1) end)
         order by m.account for no key update) as locked;
    now := clock_timestamp();

    with flight as materialized (
        select account, endpoint, count(*)::integer as count from outbox.operation where state = 'in_flight' group by account, endpoint),
    gate as (
        -- An account that was blocked lets one operation through at a time, until one gets an answer that lifts the block.
        -- One that got its limit, or its first work, while we waited for the locks is left to the next claim.
        select a.name, case when a.paused_at is not null or a.blocked_until > now or m.probe_at > now or held.account is null then 0
                            else least(max_count,
                                       a.max_in_flight - f.count,
                                       case when a.blocked_until is not null or m.probe_at is not null then 1 - f.count end,
                                       floor(outbox.tokens(m, a, now))::integer) end as allowance
          from outbox.account a
          join outbox.account_meter m on m.account = a.name
          left join unnest(metered) as held (account) on held.account = a.name
         cross join lateral (select case when outbox.counts_in_flight(a, m)
                                         then (select coalesce(sum(f.count), 0)::integer from flight f where f.account = a.name) end as count) as f
         where a.paused_at is not null or a.blocked_until is not null or a.max_in_flight is not null or a.rate_per_second is not null
            or m.probe_at is not null
        union all
        select t.account || ' ' || t.endpoint, case when t.blocked_until > now or held.account is null then 0 else 1 - coalesce(f.count, 0) end
          from outbox.throttle t
          left join unnest(metered) as held (account) on held.account = t.account
          left join flight f on f.account = t.account and f.endpoint = t.endpoint)
    select array_agg((g.name, greatest(g.allowance, 0))::outbox.gate) into result from gate g;
    return coalesce(result, '{}');
end $$;
comment on function outbox.gates is
    'Locks the meters of limited accounts until the transaction ends, and tells what they may claim: exact over the fleet. What is not named is not limited';

create type outbox.place as (account text, endpoint text, lane text);
comment on type outbox.place is 'A lane, or the gap directly behind one, on the way round all lanes';

create function outbox.behind(lane outbox.place) returns outbox.place
    language sql immutable parallel safe set search_path = pg_catalog, pg_temp
    return ((lane).account, (lane).endpoint, (lane).lane || chr(1))::outbox.place;
comment on function outbox.behind(outbox.place) is 'The place directly behind a lane: chr(1) sorts before every character that a lane may have';

create type outbox.lane as (account text, endpoint text, lane text, mark_0 timestamptz, mark_1 timestamptz, mark_2 timestamptz, mark_3 timestamptz);
comment on type outbox.lane is 'A lane, and of each priority the latest due time that its worker claimed from it. Null: it claimed none';

create function outbox.walk(gates outbox.gate[], max_count integer, start outbox.place) returns outbox.lane[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return (
    -- A loose index scan: from each lane with queued work to the next, past what is shut (chr(1114111) sorts behind every name).
    with recursive
    shut as materialized (select coalesce(array_agg(name), '{}') as names from unnest(gates) where allowance = 0),
    lane as (
        (select o.account, o.endpoint, o.lane, 1 as place from outbox.operation o
          where o.state = 'queued' and (o.account, o.endpoint, o.lane) >= ((start).account, (start).endpoint, (start).lane)
          order by o.account, o.endpoint, o.lane limit 1)
        union all
        select next.account, next.endpoint, next.lane, l.place + 1
          from lane l cross join shut cross join lateral (
               select o.account, o.endpoint, o.lane from outbox.operation o
                where o.state = 'queued' and (o.account, o.endpoint, o.lane) > (
                      l.account,
                      case when l.account = any (shut.names) then chr(1114111) else l.endpoint end,
                      case when l.account = any (shut.names) or l.account || ' ' || l.endpoint = any (shut.names)
                           then chr(1114111) else l.lane end)
                order by o.account, o.endpoint, o.lane limit 1) as next
         where l.place < max_count)
    select array_agg((account, endpoint, lane, null, null, null, null)::outbox.lane order by place) from lane);
end $$;
comment on function outbox.walk is 'The next lanes, up to max_count, with queued work from the place named on, whether it is due or not';

create function outbox.lanes_due_since(gates outbox.gate[], known outbox.lane[], since timestamptz) returns outbox.lane[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return (
    with moment as materialized (select clock_timestamp() as now),
    -- What is limited may have been due for long: it had to wait for its gate.
    pair as materialized (
        select distinct account, endpoint,
               case when exists (select from unnest(gates) g where g.name in (account, account || ' ' || endpoint)) then '-infinity' else since end as since
          from unnest(known))
    select array_agg((lane.account, lane.endpoint, lane.lane, lane.since, lane.since, lane.since, lane.since)::outbox.lane)
      from (select distinct p.account, p.endpoint, recent.lane, p.since
              from pair p cross join moment cross join lateral (
                   select o.lane from outbox.operation o
                    where o.state = 'queued' and o.account || ' ' || o.endpoint = p.account || ' ' || p.endpoint
                      and o.next_attempt_at >= p.since and o.next_attempt_at <= moment.now
                    order by o.next_attempt_at limit 1000) as recent
             where not exists (select from unnest(known) k where k.account = p.account and k.endpoint = p.endpoint and k.lane = recent.lane)) as lane);
end $$;
comment on function outbox.lanes_due_since is
    'Lanes not among the known, of the same accounts and endpoints, in which something became due since the time given, or ever if they are limited;
judged by the first thousand such operations of each';

create type outbox.picked as (operation_ids bigint[], last_lane outbox.place, is_full boolean, settled outbox.moved[]);
comment on type outbox.picked is
    'Operations that were picked to be claimed; the last lane with something due; whether there may be more such lanes; and operations that had to be settled instead';

create function outbox.behind(mark timestamptz, since timestamptz) returns timestamptz
    language sql volatile  -- and nothing set, or it would not be inlined
    return least(case when mark <= clock_timestamp() then mark else since end, clock_timestamp() - interval '0.2 s');  -- LATE in worker/store/watermarks.py
comment on function outbox.behind(timestamptz, timestamptz) is
    'From when on to look behind a mark: since the time given if there is none, or one in the future, which a clock that was set back leaves; and never from later than 0.2 s ago';

create function outbox.lock_due(gates outbox.gate[], max_count integer, lanes outbox.lane[], since timestamptz) returns outbox.picked
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    result outbox.picked;
begin
    with
    gate as materialized (select name, allowance from unnest(gates)),
    shut as materialized (select coalesce(array_agg(name), '{}') as names from gate where allowance = 0),
    moment as materialized (select clock_timestamp() as now),
    -- Lanes with something due, each with the first of it: the dead entries before that one are walked over once, not twice.
    due_lane as materialized (
        select l.*, first.priority, first.next_attempt_at as begin,
               least((select min(g.allowance) from gate g where g.name in (l.account, l.account || ' ' || l.endpoint)), max_count) as most
          from (select account, endpoint, lane, place,
                       outbox.behind(mark_0, since) as from_0, outbox.behind(mark_1, since) as from_1,
                       outbox.behind(mark_2, since) as from_2, outbox.behind(mark_3, since) as from_3
                  from unnest(lanes) with ordinality as known (account, endpoint, lane, mark_0, mark_1, mark_2, mark_3, place)
                 cross join shut
                 where not (account = any (shut.names) or account || ' ' || endpoint = any (shut.names))) as l
         cross join moment
         cross join lateral (
               select p.priority, o.next_attempt_at
                 from (values (0::smallint, l.from_0), (1::smallint, l.from_1), (2::smallint, l.from_2), (3::smallint, l.from_3))
                      as p (priority, begin)
                cross join lateral (select o.next_attempt_at from outbox.operation o
                       where o.state = 'queued' and o.account = l.account and o.endpoint = l.endpoint and o.lane = l.lane
                         and o.priority = p.priority and o.next_attempt_at >= p.begin and o.next_attempt_at <= moment.now
                       order by o.next_attempt_at, o.id limit 1) as o  -- the order names the index
                limit 1) as first
         order by l.place limit max_count),
    share as materialized (select ceil(max_count::numeric / greatest(count(*), 1))::integer as quota, count(*) as lane_count from due_lane),
    -- The rows of each lane by priority (VALUES keeps its order, the outer limit stops early), past those that other claims hold.
    picked as (
        select taken.id, taken.turn, l.place
          from due_lane l cross join share cross join moment
         cross join lateral (
               select o.id, row_number() over () as turn
                 from (values (0::smallint, l.from_0), (1::smallint, l.from_1), (2::smallint, l.from_2), (3::smallint, l.from_3))
                      as p (priority, begin)
                cross join lateral (
                      select o.id from outbox.operation o
                       where o.state = 'queued' and o.account = l.account and o.endpoint = l.endpoint and o.lane = l.lane
                         and o.priority = p.priority and o.next_attempt_at <= moment.now
                         and o.next_attempt_at >= case when p.priority = l.priority then l.begin else p.begin end
                       order by o.next_attempt_at, o.id limit least(share.quota, l.most)
                         for no key update of o skip locked) as o
                where p.priority >= l.priority
                limit least(share.quota, l.most)) as taken)
    -- By turns: of each lane its first, then of each its second. Shares are rounded up, and what is too much is left.
    select (select array_agg(id) from (select id from picked order by turn, place limit max_count) as fair),
           (select (account, endpoint, lane)::outbox.place from due_lane order by place desc limit 1),
           (select lane_count from share) >= max_count, null::outbox.moved[]
      into result;
    return result;
end $$;
comment on function outbox.lock_due is
    'Picks up to max_count due operations of these lanes, in their order: an equal share from each, the urgent first. A share is rounded up, so that one more of each lane may be
locked until the transaction ends. Looks from the lane''s marks on, as outbox.behind';

create function outbox.next_due_lane(gates outbox.gate[], start outbox.place) returns outbox.place
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    result outbox.place;
begin
    with recursive
    shut as materialized (select coalesce(array_agg(name), '{}') as names from unnest(gates) where allowance = 0),
    moment as materialized (select clock_timestamp() as now),
    pair as (
        (select o.account, o.endpoint, o.account || ' ' || o.endpoint as name from outbox.operation o
          where o.state = 'queued' and o.account || ' ' || o.endpoint >= (start).account || ' ' || (start).endpoint
          order by o.account || ' ' || o.endpoint limit 1)
        union all
        select next.*
          from pair p cross join shut cross join lateral (
               select o.account, o.endpoint, o.account || ' ' || o.endpoint from outbox.operation o
                where o.state = 'queued' and o.account || ' ' || o.endpoint >
                      case when p.account = any (shut.names) then p.account || ' ' || chr(1114111) else p.name end
                order by o.account || ' ' || o.endpoint limit 1) as next)
    select p.account, p.endpoint, due.lane into result
      from pair p cross join shut cross join moment
     cross join lateral (
           select min(longest.lane) as lane
             from (select o.lane from outbox.operation o
                    where o.state = 'queued' and o.account || ' ' || o.endpoint = p.name and o.next_attempt_at <= moment.now
                    order by o.next_attempt_at limit 1000) as longest
            where (p.account, p.endpoint, longest.lane) >= ((start).account, (start).endpoint, (start).lane)) as due
     where due.lane is not null and not (p.account = any (shut.names) or p.name = any (shut.names))
     limit 1;
    return result;
end $$;
comment on function outbox.next_due_lane is
    'The next lane from the place named on with something due, as far as the operations tell that are due for longest (a thousand of each account and endpoint);
null: they know of none. Takes no time over lanes that have none, of which there may be one for every customer';

create function outbox.has_backlog(place outbox.place) returns boolean
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    with moment as materialized (select clock_timestamp() as now)
    select count(*) = 1000
      from moment cross join lateral (
           select from outbox.operation o
            where o.state = 'queued' and o.account || ' ' || o.endpoint = (place).account || ' ' || (place).endpoint
              and o.next_attempt_at <= moment.now
            order by o.next_attempt_at limit 1000) as due
$$;
comment on function outbox.has_backlog is
    'Whether more is due of an account and endpoint than next_due_lane looks at: then a lane with something due may lie anywhere';

create function outbox.sendable(operation_ids bigint[], gates outbox.gate[]) returns bigint[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_hashjoin = on as $$
begin
    return (
        select array_agg(id) from (
            select o.id, a.allowance as of_account, p.allowance as of_pair,
                   row_number() over (partition by o.account order by o.priority, chosen.place) as account_place,
                   row_number() over (partition by o.account, o.endpoint order by o.priority, chosen.place) as pair_place
              from unnest(operation_ids) with ordinality as chosen (id, place)
              join outbox.operation o on o.id = chosen.id
              left join unnest(gates) a on a.name = o.account
              left join unnest(gates) p on p.name = o.account || ' ' || o.endpoint
             where o.next_attempt_at is not null) as row
         where account_place <= coalesce(of_account, account_place) and pair_place <= coalesce(of_pair, pair_place));
end $$;
comment on function outbox.sendable is 'Those of some locked operations that are still queued, no more of each account and endpoint than its gate allows: the urgent first, then in their order';

create function outbox.spend(operation_ids bigint[]) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_hashjoin = on as $$
begin
    update outbox.account_meter m
       set tokens = outbox.tokens(m, a, c.now) - spent.count, refilled_at = c.now
      from outbox.account a,
           (select clock_timestamp() as now) as c,
           (select o.account, count(*) as count from outbox.operation o where o.id = any (operation_ids) group by o.account) as spent
     where a.name = m.account and a.rate_per_second is not null and spent.account = m.account;
end $$;
comment on function outbox.spend is 'Takes a token for each operation out of the bucket of its account, if that has a rate';

create function outbox.pick(gates outbox.gate[], max_count integer, lanes outbox.lane[], since timestamptz) returns outbox.picked
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    result outbox.picked := outbox.lock_due(gates, max_count, lanes, since);
begin
    if result.operation_ids is not null then
        result.settled := outbox.settle_unsendable(result.operation_ids);
        result.operation_ids := outbox.sendable(result.operation_ids, gates);
    end if;
    return result;
end $$;
comment on function outbox.pick is 'Locks due operations of these lanes, as outbox.lock_due, and leaves out what the gates forbid. What can never be sent any more it settles in passing';

create function outbox.sweep(gates outbox.gate[], max_count integer, after outbox.place) returns outbox.picked
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    lanes_at_once constant integer := 256;
    most_strides constant integer := 16;
    strides integer := 0;
    start outbox.place := outbox.behind(after);
    lanes outbox.lane[];
    picked outbox.picked;
    settled outbox.moved[];
    wrapped boolean := false;
begin
    for step in 1..64 loop  -- bounded: what is left is left to the next claim
        lanes := outbox.walk(gates, lanes_at_once, start);
        picked := outbox.pick(gates, max_count, lanes, '-infinity');
        settled := settled || picked.settled;
        exit when picked.operation_ids is not null;
        continue when picked.settled is not null;  -- the same lanes once more: what can be sent may lie behind what cannot
        if picked.is_full or cardinality(lanes) = lanes_at_once then
            -- A full look goes on behind its last lane.
            start := outbox.behind(case when picked.is_full then picked.last_lane
                                        else (lanes[lanes_at_once].account, lanes[lanes_at_once].endpoint, lanes[lanes_at_once].lane)::outbox.place end);
            strides := strides + 1;
            continue when strides < most_strides and outbox.has_backlog(start);
            start := outbox.next_due_lane(gates, start);
            continue when start is not null;
        end if;
        exit when wrapped or (after).account = '';
        wrapped := true;
        start := ('', '', '');
    end loop;
    picked.settled := settled;
    return picked;
end $$;
comment on function outbox.sweep is 'Picks and locks up to max_count operations that can be sent, fairly over all lanes, from behind the lane named round to it again';

create function outbox.glance(gates outbox.gate[], max_count integer, known outbox.lane[], since timestamptz) returns outbox.picked
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    lanes outbox.lane[] := known;
    picked outbox.picked;
    settled outbox.moved[];
    with_others boolean := false;
begin
    for step in 1..64 loop  -- the known lanes alone, then with others, then again while that only settles; bounded as a sweep is
        picked := outbox.pick(gates, max_count, lanes, since);
        settled := settled || picked.settled;
        exit when cardinality(picked.operation_ids) = max_count;
        exit when with_others and (picked.operation_ids is not null or picked.settled is null);
        lanes := known || outbox.lanes_due_since(gates, known, since);
        with_others := true;
    end loop;
    picked.settled := settled;
    return picked;
end $$;
comment on function outbox.glance is
    'Picks and locks up to max_count operations that can be sent: from the known lanes, and from others of their accounts and endpoints in which something became due since the time given';

create function outbox.claim(
    max_count integer, hold interval, node text, after_account text default '', after_endpoint text default '', after_lane text default '',
    known outbox.lane[] default '{}', look_back interval default null)
    returns setof outbox.leased
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
declare
    gates outbox.gate[];
    began_at timestamptz;
    picked outbox.picked;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'claim counts under a fresh snapshot: use READ COMMITTED' using errcode = '25001';
    end if;
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        perform set_config('synchronous_commit', 'on', true);  -- law 1: a claim that a crash or a failover can undo is none
    end if;
    perform outbox.refuse_when_shut();
    if not pg_try_advisory_xact_lock_shared(74646623, 1) then
        raise exception 'claims are shut: the history is being adopted' using errcode = 'RO012';
    end if;
    gates := outbox.gates(max_count);
    began_at := clock_timestamp();
    picked := case when look_back is null then outbox.sweep(gates, max_count, (after_account, after_endpoint, after_lane)::outbox.place)
                   else outbox.glance(gates, max_count, known, began_at - look_back) end;
    if picked.settled is not null then
        return query select told.* from unnest(picked.settled) as m cross join lateral jsonb_populate_record(null::outbox.leased, to_jsonb(m)) as told;
    end if;
    if picked.operation_ids is null then
        return;
    end if;
    perform outbox.spend(picked.operation_ids);
    return query select * from outbox.lease(picked.operation_ids, node, hold, array(select g.name from unnest(gates) g where g.name like '% %'), began_at);
end $$;
comment on function outbox.claim is
    'Leases up to max_count due operations to a worker, fairly over accounts and lanes. Exact over the fleet: pause, block, rate and in-flight limit. What can never be sent any more it
settles in passing, and tells of it first, in rows without a lease_token. With look_back it only glances: into the known lanes, each from its mark on, and into others of their
accounts and endpoints in which something became due within look_back. So it does not meet the dead index entries that pile up while somebody holds a snapshot. Without look_back
it sweeps all lanes, from behind the lane named round to it again';

-- Workers: record -----------------------------------------------------------------------------------------------------

create type outbox.report as (
    operation_id bigint, number integer, lease_token uuid, verdict outbox.verdict, phase outbox.phase, status integer, error text,
    provider_id text, body_sha256 bytea, answer_sha256 bytea, headers jsonb, body bytea, state outbox.state,
    repeat_count integer, delay double precision, counts boolean, settled boolean, clears_doubt boolean);
comment on type outbox.report is
    'What a worker tells of one attempt: what came back, and what it decided. delay is in seconds; counts: it stays in the budget; settled: the API is done with it';

create function outbox.keep_reports(reports outbox.report[]) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    update outbox.attempt a
       set recorded = true, late = o.lease_token is distinct from a.lease_token,
           finished_at = coalesce(a.finished_at, greatest(clock_timestamp(), a.started_at)),
           verdict = r.verdict, phase = r.phase, status = r.status, error = r.error, provider_id = r.provider_id,
           body_sha256 = r.body_sha256,
           disproved = a.disproved and r.verdict <> 'accepted',  -- what says that it was executed outweighs any proof (law 11)
           late_body = case when r.verdict = 'accepted' and o.lease_token is distinct from a.lease_token then r.body end
      from unnest(reports) r join outbox.operation o on o.id = r.operation_id
     where a.operation_id = r.operation_id and a.number = r.number;
    update outbox.attempt a
       set disproved = true
      from unnest(reports) r join outbox.operation o on o.id = r.operation_id and o.lease_token = r.lease_token
     where r.clears_doubt and a.operation_id = r.operation_id and a.number < r.number and a.doubt and a.verdict <> 'accepted';
end $$;
comment on function outbox.keep_reports is 'Writes reports into their attempts, marks those that lost their lease as late, and what a refusal disproves';

create function outbox.count_doubt(reports outbox.report[], out opened_by bigint[], out closed_by bigint[])
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    told record;
    was_open boolean;
    is_open boolean;
begin
    -- In the order of their names, as every claim locks the meters; and locked before, so that whoever turns a breaker knows how it was.
    for told in
        select o.account, min(o.id) as id, bool_or(r.phase = 'answered' and r.verdict <> 'ambiguous') as clear,
               count(*) filter (where r.verdict = 'ambiguous' and r.status is distinct from 409)::integer as doubted
          from unnest(reports) r join outbox.operation o on o.id = r.operation_id
         group by o.account order by o.account
    loop
        select m.probe_at is not null into was_open from outbox.account_meter m
         where m.account = told.account and case when told.clear then m.doubt_run > 0 else told.doubted > 0 end
           for no key update;
        continue when not found;
        if told.clear then
            update outbox.account_meter m set doubt_run = 0, probe_at = null, probe_wait = null where m.account = told.account
            returning m.probe_at is not null into is_open;
        else
            update outbox.account_meter m
               set doubt_run = m.doubt_run + told.doubted,
                   probe_at = case when t.waits then m.probe_at else t.now + make_interval(secs => t.wait) end,
                   probe_wait = case when t.waits then m.probe_wait else t.wait end
              from outbox.account a,
                   lateral (select c.now, p.probe_at > c.now as waits,
                                   case when p.doubt_run + told.doubted < a.breaker_after or a.breaker_after is null then null
                                        when p.probe_at is null then 1 else least(2 * p.probe_wait, 60) end as wait
                              from outbox.account_meter p cross join (select clock_timestamp() as now) as c
                             where p.account = a.name) as t
             where m.account = told.account and a.name = told.account
            returning m.probe_at is not null into is_open;
        end if;
        if is_open and not was_open then
            opened_by := opened_by || told.id;
        elsif was_open and not is_open then
            closed_by := closed_by || told.id;
        end if;
    end loop;
end $$;
comment on function outbox.count_doubt is
    'The breaker: counts ambiguous attempts in a row by account. Once they are breaker_after, one operation may go after a second, and if that is ambiguous too, after two, four ... a
minute more; a clear answer closes it. Returns an operation of each account whose breaker was opened or closed by it';

create function outbox.settle_held(reports outbox.report[], shut boolean) returns setof bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return query
    update outbox.operation o
       set state = v.state,
           next_attempt_at = case when v.state = 'queued' then greatest(c.now + make_interval(secs => coalesce(r.delay, 1)), v.settles_at) end,
           settles_at = v.settles_at,
           finished_at = case when v.state in ('succeeded', 'failed', 'expired', 'cancelled') then c.now end,
           lease_token = null, lease_expires_at = null, leased_by = null,
           attempt_count = o.attempt_count - (not r.counts)::integer,
           first_sent_at = d.since, key_window_closes_at = d.since + (e.key_ttl - e.key_safety),
           response_status = case when v.state <> 'queued' then r.status end,
           response_headers = case when v.state <> 'queued' then r.headers end,
           response_body = case when v.state <> 'queued' then r.body end,
           provider_id = r.provider_id,
           last_error = r.error,
           last_answer_sha256 = coalesce(r.answer_sha256, o.last_answer_sha256),
           repeat_count = r.repeat_count
      from unnest(reports) r
     cross join (select clock_timestamp() as now) as c
     cross join lateral (select min(a.started_at) as since from outbox.attempt a where a.operation_id = r.operation_id and a.doubt) as d
      join outbox.operation was on was.id = r.operation_id
      join outbox.endpoint e on e.name = was.endpoint
     cross join lateral (
           -- Law 6, whatever the worker thinks: with doubt outstanding nothing ends as "not executed".
           select case when r.verdict = 'accepted' then 'succeeded'
                       -- Another attempt may have been lost: whoever adopts the history decides.
                       when shut and r.state in ('failed', 'expired', 'cancelled') then 'queued'
                       when r.state in ('failed', 'expired', 'cancelled') and d.since is not null then 'unresolved'
                       -- Late evidence has lifted the doubt meanwhile: what was not sent, or not now, may be tried again after all.
                       when r.state = 'unresolved' and d.since is null and not r.counts then 'queued'
                       when r.state = 'unresolved' and d.since is null then 'failed'
                       else r.state end::outbox.state as state,
                  case when not r.settled then c.now + e.settle end as settles_at) as v
     where o.id = r.operation_id and o.lease_token = r.lease_token
    returning o.id;
end $$;
comment on function outbox.settle_held is 'Moves on the operations whose lease the reports still hold (law 5)';

create function outbox.settle_late(reports outbox.report[]) returns setof bigint
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    with accepted as (select distinct on (operation_id) * from unnest(reports) where verdict = 'accepted' order by operation_id, number),
    settled as (
        update outbox.operation o
           set state = 'succeeded', next_attempt_at = null, settles_at = null, finished_at = clock_timestamp(),
               lease_token = null, lease_expires_at = null, leased_by = null,
               response_status = r.status, response_headers = r.headers, response_body = r.body, provider_id = r.provider_id,
               last_error = null,
               first_sent_at = (select min(a.started_at) from outbox.attempt a where a.operation_id = o.id and a.doubt),
               key_window_closes_at = (select min(a.started_at) from outbox.attempt a where a.operation_id = o.id and a.doubt)
                                      + (select e.key_ttl - e.key_safety from outbox.endpoint e where e.name = o.endpoint)
          from accepted r
         where o.id = r.operation_id and o.finished_at is null
        returning o.id),
    cut_off as (
        update outbox.attempt a
           set finished_at = greatest(clock_timestamp(), a.started_at), verdict = 'ambiguous',
               error = 'a late answer settled the operation meanwhile'
          from settled s
         where a.operation_id = s.id and a.verdict is null)
    select id from settled
$$;
comment on function outbox.settle_late is 'Lets a late accepted answer settle an operation that is not final; another attempt that is open is cut off (law 5)';

create function outbox.recount_doubt(operation_ids bigint[]) returns void
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    update outbox.operation o
       set first_sent_at = d.since, key_window_closes_at = d.since + (e.key_ttl - e.key_safety)
      from outbox.endpoint e,
           lateral (select id, (select min(a.started_at) from outbox.attempt a where a.operation_id = id and a.doubt) as since
                      from unnest(operation_ids) as id) as d
     where o.id = d.id and e.name = o.endpoint and o.state in ('queued', 'in_flight') and o.first_sent_at is distinct from d.since
$$;
comment on function outbox.recount_doubt is 'Takes first_sent_at from the attempts anew, after late evidence about one of them';

create function outbox.doubt_if_lost(reports outbox.report[]) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    unknown bigint;
begin
    select r.operation_id into unknown
      from unnest(reports) r join outbox.operation o on o.id = r.operation_id
     where not exists (select from outbox.attempt a
                        where a.operation_id = r.operation_id and (a.lease_token = r.lease_token or (a.leased_by = 'lost' and a.number >= r.number)))
     limit 1;
    if unknown is not null and outbox.why_shut() is null then
        perform outbox.doubt(format('a worker was given a lease of operation %s that this database does not know: an old copy was restored', unknown));
    end if;
end $$;
comment on function outbox.doubt_if_lost is
    'Shuts claims if a worker reports under a lease that is on record nowhere, and that no loss accounts for: the claim was committed, so the commit was lost';

create function outbox.find_lost(reports outbox.report[]) returns void
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at)
    select r.operation_id, r.number, r.lease_token, 'lost', stand_in.started_at
      from unnest(reports) r
     cross join lateral (select a.started_at from outbox.attempt a
                          where a.operation_id = r.operation_id and a.leased_by = 'lost' and a.number > r.number
                          order by a.number limit 1) as stand_in
     where r.verdict = 'accepted'
        on conflict do nothing
$$;
comment on function outbox.find_lost is
    'Puts attempts on record again that were lost with an old history, and that the API accepted: their answers are evidence (law 5)';

create function outbox.unrecorded(reports outbox.report[]) returns outbox.report[]
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return (
    select array_agg(r)
      from unnest(reports) r
      join outbox.attempt a on a.operation_id = r.operation_id and a.number = r.number and a.lease_token = r.lease_token
     where not a.recorded);
end $$;
comment on function outbox.unrecorded is 'The reports of attempts that are on record, under the token that was given out, and were not told of before (law 5)';

create function outbox.record(
    operation_ids bigint[], numbers integer[], lease_tokens uuid[], verdicts outbox.verdict[], phases outbox.phase[], statuses integer[],
    errors text[], provider_ids text[], body_hashes bytea[], answer_hashes bytea[], headers jsonb[], bodies bytea[], states outbox.state[],
    repeat_counts integer[], delays double precision[], counts boolean[], settled boolean[], clears_doubt boolean[], keys text[] default null)
    returns table (operation_id bigint, number integer, fate text, state outbox.state)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
#variable_conflict use_column
declare
    ours bigint[];
    others bigint[];
    strangers bigint[];
    reports outbox.report[];
    news outbox.report[];
    held bigint[];
    revived bigint[];
    opened_by bigint[];
    closed_by bigint[];
begin
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    -- Whoever holds one of them (an app that expects it, a person in psql) may take his time: the rest does not wait for him.
    select array_agg(id) into ours from (
        select o.id from outbox.operation o where o.id = any (operation_ids) order by o.id for no key update skip locked) as row;
    others := array(select unnest(operation_ids) except select unnest(ours));
    -- An id whose commit was lost is given out again: what is told of another key is not about this operation.
    strangers := array(select o.id from unnest(operation_ids, keys) as r (id, key) join outbox.operation o on o.id = r.id where o.idempotency_key <> r.key);
    select array_agg(row (r.*)::outbox.report) into reports
      from unnest(operation_ids, numbers, lease_tokens, verdicts, phases, statuses, errors, provider_ids, body_hashes, answer_hashes,
                  headers, bodies, states, repeat_counts, delays, counts, settled, clears_doubt) as r (operation_id)
     where r.operation_id <> all (others || strangers);
    news := outbox.unrecorded(reports);
    if cardinality(news) is distinct from cardinality(reports) then
        perform outbox.doubt_if_lost(reports);
        perform outbox.find_lost(reports);
        news := outbox.unrecorded(reports);
    end if;
    reports := news;

    perform outbox.keep_reports(reports);
    select b.opened_by, b.closed_by into opened_by, closed_by from outbox.count_doubt(reports) as b;
    select array_agg(id) into held from outbox.settle_held(reports, outbox.why_shut() is not null) as id;
    select array_agg(r) into reports
      from unnest(reports) r join outbox.attempt a on a.operation_id = r.operation_id and a.number = r.number and a.late;
    if reports is not null then
        select array_agg(id) into revived from outbox.settle_late(reports) as id;
        perform outbox.recount_doubt(array(select r.operation_id from unnest(reports) r));
    end if;

    return query
    select r.id, r.number,
           case when r.id = any (others) then 'locked'
                when late.operation_id is not null and exists (select from outbox.conflict c where c.id = r.id) then 'conflict'
                when late.operation_id is not null and r.id = any (revived) then 'settled'
                when late.operation_id is not null then 'late'
                when r.id = any (held) then 'recorded' else 'repeated' end,
           o.state
      from unnest(operation_ids, numbers) as r (id, number)
      join outbox.operation o on o.id = r.id
      left join unnest(reports) as late on late.operation_id = r.id and late.number = r.number
     where r.id <> all (strangers);
    if opened_by is not null or closed_by is not null then
        return query
        select b.id, null::integer, b.turn, null::outbox.state
          from (select id, 'breaker_opened' as turn from unnest(opened_by) as id
                union all select id, 'breaker_closed' from unnest(closed_by) as id) as b;
    end if;
end $$;
comment on function outbox.record is
    'Records what came of attempts, each under the token that sent it and once (law 5). Tells of each: recorded; late (the lease was lost: kept as evidence); settled
(late, and it settled the operation); conflict (late, and it proves what law 11 speaks of); repeated (known already); locked (somebody else holds the operation:
nothing was recorded, and it is to be told again). Nothing of an operation that is gone, or has another key. A last row without a number tells that the breaker of that operation''s account has turned: breaker_opened, or
breaker_closed';

-- Workers: blocks -----------------------------------------------------------------------------------------------------

create function outbox.block(account text, endpoint text, seconds double precision, reason text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    until timestamptz := clock_timestamp() + make_interval(secs => least(greatest(block.seconds, 0), 3600));
begin
    if block.endpoint is null then
        update outbox.account a set blocked_until = greatest(a.blocked_until, until), blocked_reason = left(block.reason, 500)
         where a.name = block.account;
    else
        insert into outbox.throttle as t (account, endpoint, blocked_until, blocked_reason)
        values (block.account, block.endpoint, until, left(block.reason, 500))
        on conflict on constraint throttle_pkey do update
           set blocked_until = greatest(t.blocked_until, excluded.blocked_until), blocked_reason = excluded.blocked_reason,
               blocked_at = excluded.blocked_at;
    end if;
end $$;
comment on function outbox.block is
    'Stops an account (endpoint NULL), or its use of one endpoint, for at most an hour; after that one operation at a time, until outbox.unblock. Never touches a person''s pause';

create function outbox.unblock(account text, endpoint text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    -- Suspicions first and the account behind them, as outbox.suspect() locks them.
    delete from outbox.suspicion s where s.account = unblock.account;
    update outbox.account a set blocked_until = null, blocked_reason = null
     where a.name = unblock.account and a.blocked_until <= clock_timestamp();
    delete from outbox.throttle t
     where t.account = unblock.account and t.endpoint = unblock.endpoint and t.blocked_until <= clock_timestamp();
    notify ringonce;
end $$;
comment on function outbox.unblock is 'Lifts blocks whose time is over, because an operation got through';

create function outbox.suspect(account text, operation_id bigint, status integer, seconds double precision) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    since timestamptz;
    run integer;
    blamed boolean;
begin
    insert into outbox.suspicion (account, operation_id, status) values (suspect.account, suspect.operation_id, suspect.status)
    on conflict on constraint suspicion_pkey do update set met_at = clock_timestamp(), status = excluded.status;
    select greatest(max(last.finished_at), clock_timestamp() - interval '1 hour') into since
      from outbox.endpoint e cross join lateral (
           select o.finished_at from outbox.operation o
            where o.account = suspect.account and o.endpoint = e.name and o.state = 'succeeded' and o.finished_at is not null
            order by o.finished_at desc limit 1) as last;
    delete from outbox.suspicion s using (
           select old.operation_id from outbox.suspicion old
            where old.account = suspect.account and old.met_at <= since for update skip locked) as gone
     where s.account = suspect.account and s.operation_id = gone.operation_id;
    select count(*) into run from outbox.suspicion s where s.account = suspect.account and s.met_at > since;
    -- Of a campaign with many bad numbers three are soon refused in a row. Of an account that is used all the time it takes ten.
    blamed := run >= 10 or (run >= 3 and since < clock_timestamp() - interval '1 minute');
    if blamed then
        perform outbox.block(suspect.account, null, suspect.seconds,
                             format('%s operations in a row were answered %s', run, suspect.status));
    end if;
    return blamed;
end $$;
comment on function outbox.suspect is
    'Notes a refusal that may be about the account. The third different operation in a row, with no success in between, blocks the account; the tenth, if it
had one within the last minute. Returns whether it did';

-- Workers: upkeep -----------------------------------------------------------------------------------------------------

create function outbox.rescue(max_count integer) returns setof outbox.moved
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
declare
    lost bigint[];
begin
    select array_agg(id) into lost from (
        select o.id from outbox.operation o
         where o.state = 'in_flight' and o.lease_expires_at < (select clock_timestamp()) - interval '5 seconds'
         order by o.lease_expires_at limit max_count for no key update skip locked) as expired;
    if lost is null then
        return;
    end if;
    update outbox.attempt a
       set finished_at = greatest(o.lease_expires_at, a.started_at), verdict = 'ambiguous',
           error = 'the lease expired: its worker died, stood still, or lost the database'
      from outbox.operation o
     where o.id = any (lost) and a.operation_id = o.id and a.number = o.attempt_number and a.verdict is null;
    return query
    update outbox.operation o
       set state = v.state, next_attempt_at = case when v.state = 'queued' then v.next_attempt_at end,
           settles_at = v.settles_at, lease_token = null, lease_expires_at = null, leased_by = null,
           last_error = 'the lease expired: its worker died, stood still, or lost the database'
      from outbox.endpoint e,
           lateral (select id, n.next_attempt_at, s.settles_at,
                           case when i.attempt_count >= e.max_attempts or n.next_attempt_at >= i.deadline_at
                                     or n.next_attempt_at + e.call_deadline >= i.key_window_closes_at
                                then 'unresolved' else 'queued' end::outbox.state as state
                      from outbox.operation i
                     -- Nobody looked for a minute; or the clock was set forward, and the call may be on its way still.
                     cross join lateral (select greatest(i.lease_expires_at, case when i.lease_expires_at < clock_timestamp() - interval '1 minute'
                                                              then clock_timestamp() + e.call_deadline end) + e.settle as settles_at) as s
                     cross join lateral (select greatest(clock_timestamp(), s.settles_at) + e.backoff * random() as next_attempt_at) as n
                     where i.id = any (lost) and i.endpoint = e.name) as v
     where o.id = v.id
    returning o.id, o.attempt_number, o.endpoint, o.first_sent_at, o.state, o.traceparent;
end $$;
comment on function outbox.rescue is
    'Takes back leases that expired 5 s ago or more: their attempts are ambiguous, their operations wait for settle, or are unresolved. Returns those';

create function outbox.settle_passed(max_count integer) returns setof outbox.moved
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
declare
    passed bigint[];
begin
    if outbox.why_shut() is not null then
        return;  -- law 6: "expired" would say that it is known not to have been executed
    end if;
    select array_agg(id) into passed from (
        select id from (select o.id from outbox.operation o
            where o.state = 'queued' and o.first_sent_at is not null and o.key_window_closes_at <= (select clock_timestamp())
            order by o.key_window_closes_at limit max_count for no key update skip locked) as closed
        union
        select id from (select o.id from outbox.operation o where o.state = 'queued' and o.deadline_at <= (select clock_timestamp())
            order by o.deadline_at limit max_count for no key update skip locked) as late) as passed;
    if passed is not null then
        return query select * from unnest(outbox.settle_unsendable(passed));
    end if;
end $$;
comment on function outbox.settle_passed is 'Settles queued operations whose deadline passed or whose key''s window closed, claimed or not. Returns those';

create function outbox.fold_counts() returns integer
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    saved integer;
begin
    -- One at a time: others would wait for its rows, and each for the other's, since scans of a table that has grown begin anywhere.
    if not pg_try_advisory_xact_lock(74646623, 3) then
        return 0;
    end if;
    with gone as (delete from outbox.finished_count returning *),
    folded as (insert into outbox.finished_count (account, endpoint, state, count)
               select account, endpoint, state, sum(count) from gone group by account, endpoint, state having sum(count) <> 0 returning 1),
    -- What is folded already stays as it is.
    gone_minute as (
        delete from outbox.attempt_count
         where (minute, verdict, duration) in (select minute, verdict, duration from outbox.attempt_count group by minute, verdict, duration
                                               having count(*) > 1 or minute <= statement_timestamp() - interval '1 hour')
        returning *),
    folded_minute as (
        insert into outbox.attempt_count (minute, verdict, duration, count)
        select minute, verdict, duration, sum(count) from gone_minute where minute > statement_timestamp() - interval '1 hour'
         group by minute, verdict, duration having sum(count) <> 0
        returning 1)
    select (select count(*) from gone) - (select count(*) from folded)
           + (select count(*) from gone_minute) - (select count(*) from folded_minute) into saved;
    return saved;
end $$;
comment on function outbox.fold_counts is
    'Folds the deltas of outbox.finished_count and outbox.attempt_count into one row each, and forgets attempts of more than an hour ago. Returns how many rows it saved; none while another folds';

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

create function outbox.forget_workers() returns integer
    language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    with gone as (delete from outbox.worker where lease_expires_at < clock_timestamp() - interval '1 hour' returning 1)
    select count(*)::integer from gone
$$;
comment on function outbox.forget_workers is 'Forgets workers that have not been heard of for an hour. Returns how many';

create function outbox.claim_announcements(max_count integer, hold interval)
    returns table (id bigint, operation_id bigint, task text, task_id uuid, idempotency_key text, state outbox.state)
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
#variable_conflict use_column
begin
    perform set_config('synchronous_commit', 'off', true);  -- a claim that is lost in a crash is made again
    return query
    update outbox.announcement a
       set next_attempt_at = clock_timestamp() + hold, attempt_count = a.attempt_count + 1
     where a.id = any (array(
           select n.id from outbox.announcement n where n.next_attempt_at <= (select clock_timestamp())
            order by n.next_attempt_at limit max_count for no key update skip locked))
    returning a.id, a.operation_id, a.task, a.task_id, a.idempotency_key, a.state;
end $$;
comment on function outbox.claim_announcements is
    'Up to max_count announcements for a worker to send. What it does not tell of within hold is another one''s to send again';

create function outbox.record_announcements(sent bigint[], put_off bigint[]) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
begin
    perform set_config('synchronous_commit', 'off', true);  -- what is lost in a crash is sent again
    -- Whoever sent the same later may record it now, too: in one order, against deadlocks.
    perform from outbox.announcement a where a.id = any (sent || put_off) order by a.id for update;
    delete from outbox.announcement a where a.id = any (sent);
    update outbox.announcement a
       set next_attempt_at = clock_timestamp() + make_interval(secs => least(power(2, least(a.attempt_count, 10)), 60) * (1 + random() / 4))
     where a.id = any (put_off);
end $$;
comment on function outbox.record_announcements is
    'Deletes announcements that the app''s broker has taken, and puts those off that it has not: for 2, 4, 8 ... 60 seconds, and up to a quarter more';

create function outbox.due(max_count integer, out due_count integer, out next_in double precision)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan set jit = off
    set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
    as $$
begin
    with recursive moment as materialized (select clock_timestamp() as now),
    flight as materialized (
        select account, endpoint, count(*)::integer as count from outbox.operation where state = 'in_flight' group by account, endpoint),
    account_gate as materialized (  -- when an account may be claimed from again; infinity: not before something else happens
        select a.name, greatest(
                   case when a.paused_at is not null then 'infinity' else '-infinity' end::timestamptz,
                   a.blocked_until,
                   m.probe_at,
                   case when f.count >= case when a.blocked_until is not null or m.probe_at is not null then 1 else a.max_in_flight end then 'infinity' end::timestamptz,
                   case when a.rate_per_second is not null  -- (an interval of more than 290,000 years would be an error)
                        then now + make_interval(secs => greatest(1 - outbox.tokens(m, a, now), 0) / greatest(a.rate_per_second, 1e-9))
                   end) as open_at
          from moment, outbox.account a join outbox.account_meter m on m.account = a.name
         cross join lateral (select case when outbox.counts_in_flight(a, m)
                                         then (select coalesce(sum(f.count), 0)::integer from flight f where f.account = a.name) end as count) as f),
    pair_gate as materialized (
        select t.account, t.endpoint, case when f.count > 0 then 'infinity' else t.blocked_until end as open_at
          from outbox.throttle t left join flight f on f.account = t.account and f.endpoint = t.endpoint),
    pair as (
        (select o.account, o.endpoint, o.account || ' ' || o.endpoint as name from outbox.operation o
          where o.state = 'queued' and (select outbox.why_shut()) is null order by o.account || ' ' || o.endpoint limit 1)
        union all
        select next.*
          from pair p cross join lateral (
               select o.account, o.endpoint, o.account || ' ' || o.endpoint from outbox.operation o
                where o.state = 'queued' and o.account || ' ' || o.endpoint > p.name
                order by o.account || ' ' || o.endpoint limit 1) as next),
    first_due as (
        select p.name, greatest(a.open_at, g.open_at, first.next_attempt_at) as at
          from pair p
          join account_gate a on a.name = p.account
          left join pair_gate g on g.account = p.account and g.endpoint = p.endpoint
         cross join lateral (select o.next_attempt_at from outbox.operation o
                where o.state = 'queued' and o.account || ' ' || o.endpoint = p.name
                order by o.next_attempt_at limit 1) as first),
    ready as (
        select from moment, first_due f cross join lateral (
               select from outbox.operation o
                where o.state = 'queued' and o.account || ' ' || o.endpoint = f.name and o.next_attempt_at <= moment.now
                limit max_count) as o
         where f.at <= moment.now limit max_count)
    select (select count(*)::integer from ready),
           (select extract(epoch from min(f.at) - now)::double precision from moment, first_due f
             where f.at < 'infinity' group by now)
      into due_count, next_in;
end $$;
comment on function outbox.due is
    'How many operations may be claimed now (counted up to max_count), and in how many seconds the next one may be; negative: it could have been
for so long; null: none before something else happens. None while claims are shut';

-- Administrators ------------------------------------------------------------------------------------------------------

create function outbox.locked(id bigint, reason text) returns outbox.operation
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    found_operation outbox.operation;
begin
    perform outbox.need_reason(locked.reason);
    select o.* into found_operation from outbox.operation o where o.id = locked.id for no key update;
    if not found then
        raise exception 'there is no operation %', locked.id using errcode = 'RO008';
    end if;
    return found_operation;
end $$;
comment on function outbox.locked is 'The operation, locked until the transaction ends; raises when there is none, or no reason';

create function outbox.acted(name text, operation outbox.operation, reason text, detail jsonb) returns bigint
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    insert into outbox.action (name, operation_id, account, reason, detail)
    values (acted.name, (acted.operation).id, (acted.operation).account, acted.reason,
            jsonb_build_object('from', (acted.operation).state) || acted.detail)
    returning id
$$;
comment on function outbox.acted is 'Writes one action on an operation into the audit and returns its number';

create function outbox.cancel(id bigint, reason text) returns outbox.state
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    o outbox.operation := outbox.locked(cancel.id, cancel.reason);
    outcome outbox.state := case when o.first_sent_at is null then 'cancelled' else 'unresolved' end;
begin
    perform outbox.refuse_when_shut();  -- law 6: nobody knows what was not sent
    if o.state <> 'queued' then
        raise exception 'operation % is %: only a queued one can be cancelled', o.id, o.state using errcode = 'RO009',
            hint = case o.state when 'in_flight' then 'It is being sent right now: wait for this attempt to end, then cancel.'
                                when 'unresolved' then 'It may have been executed: find out, then use outbox.resolve().'
                                else 'It is final: there is nothing left to cancel.' end;
    end if;
    update outbox.operation u
       set state = outcome, next_attempt_at = null, finished_at = case when outcome = 'cancelled' then clock_timestamp() end,
           last_error = left('cancelled: ' || cancel.reason, 500),
           last_action = outbox.acted('cancel', o, cancel.reason, jsonb_build_object('to', outcome))
     where u.id = o.id;
    return outcome;
end $$;
comment on function outbox.cancel is
    'Takes a queued operation back. With an attempt in doubt it becomes unresolved, not cancelled (law 6). Returns the new state';

create function outbox.was_reissued(operation_id bigint) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp
    return exists (select from outbox.action a where a.operation_id = was_reissued.operation_id and a.name = 'reissue');
comment on function outbox.was_reissued is 'Whether an operation was reissued, as the audit tells: the reissue itself may have been purged';

create function outbox.retry(id bigint, reason text) returns outbox.state
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    o outbox.operation := outbox.locked(retry.id, retry.reason);
    e outbox.endpoint;
    since timestamptz;
    closes_at timestamptz;
    may_send_at timestamptz;
begin
    select n.* into e from outbox.endpoint n where n.name = o.endpoint;
    -- Doubt as the attempts tell it: late evidence may say more than the row.
    select min(a.started_at) into since from outbox.attempt a where a.operation_id = o.id and a.doubt;
    closes_at := since + (e.key_ttl - e.key_safety);
    may_send_at := greatest(clock_timestamp(), o.settles_at);
    if o.state in ('in_flight', 'succeeded') then
        raise exception 'operation % is %: there is nothing to retry', o.id, o.state using errcode = 'RO009',
            hint = case o.state when 'in_flight' then 'It is being sent right now: wait for this attempt to end.'
                                else 'To do it once more, enqueue a new operation.' end;
    elsif o.state = 'queued' and o.attempt_number = 0 then
        raise exception 'operation % was not tried yet', o.id using errcode = 'RO009', hint = 'It is sent as soon as it is due.';
    elsif o.payload is null then
        raise exception 'the payload of operation % was scrubbed', o.id using errcode = 'RO009', hint = 'Enqueue a new operation.';
    elsif closes_at <= may_send_at + e.call_deadline then
        raise exception 'operation % may have been executed, and its key can protect a retry no longer (window closes %)', o.id, closes_at
            using errcode = 'RO009', hint = case when o.finished_at is null
                        then 'Find out whether it was executed, then use outbox.resolve(), or outbox.reissue() for a new key.'
                        else 'Find out whether it was executed; if not, use outbox.reissue() for a new key.' end;
    elsif o.state = 'failed' and o.response_status is not null and e.caches_errors then
        raise exception 'operation % was refused, and % replays refusals under the same key', o.id, o.endpoint using errcode = 'RO009',
            hint = 'Use outbox.reissue() for a new key, or enqueue a corrected request.';
    elsif outbox.was_reissued(o.id) then
        raise exception 'operation % was reissued under a new key: to retry it could do the same twice', o.id using errcode = 'RO009',
            hint = 'Retry the reissue instead.';
    end if;
    update outbox.operation u
       set state = 'queued', next_attempt_at = may_send_at, finished_at = null, attempt_count = 0, resolved_by = null,
           deadline_at = case when u.deadline_at > may_send_at then u.deadline_at end,
           first_sent_at = since, key_window_closes_at = closes_at, repeat_count = 0, last_answer_sha256 = null,
           response_status = null, response_headers = null, response_body = null, provider_id = null,
           last_action = outbox.acted('retry', o, retry.reason, jsonb_build_object('to', 'queued', 'deadline_was', o.deadline_at))
     where u.id = o.id;
    notify ringonce;
    return 'queued';
end $$;
comment on function outbox.retry is
    'Sends an operation again under the same key, soon and with a fresh budget: one that was certainly not executed at any time, one in doubt only within its key''s window
(law 3). A deadline that has passed is lifted';

create function outbox.reissue(id bigint, reason text) returns outbox.enqueued
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    o outbox.operation := outbox.locked(reissue.id, reissue.reason);
    result outbox.enqueued;
begin
    if o.state not in ('failed', 'expired', 'cancelled', 'unresolved') then
        raise exception 'operation % is %: it is not reissued', o.id, o.state using errcode = 'RO009',
            hint = case o.state when 'succeeded' then 'It was executed. To do it once more, enqueue a new operation.'
                                else 'It is still being worked on: cancel it first, or wait.' end;
    elsif outbox.was_reissued(o.id) then
        raise exception 'operation % was already reissued, as operation %', o.id,
            (select a.detail ->> 'as' from outbox.action a where a.operation_id = o.id and a.name = 'reissue' order by a.id limit 1)
            using errcode = 'RO009', hint = 'Go on with that one.';
    elsif o.payload is null then
        raise exception 'the payload of operation % was scrubbed', o.id using errcode = 'RO009', hint = 'Enqueue a new operation.';
    end if;
    insert into outbox.operation as n (account, app_id, endpoint, idempotency_key, payload, lane, priority, on_done, traceparent, reissue_of,
                                       deadline_at)
    values (o.account, o.app_id, o.endpoint, gen_random_uuid()::text, o.payload, o.lane, o.priority, o.on_done, o.traceparent, o.id,
            case when o.deadline_at > clock_timestamp() then o.deadline_at end)
    returning n.id, n.idempotency_key, true, n.state into result;
    update outbox.operation u
       set last_action = outbox.acted('reissue', o, reissue.reason, jsonb_build_object('as', result.id))
     where u.id = o.id;
    return result;
end $$;
comment on function outbox.reissue is
    'Does an operation again under a NEW key, once: the API will execute it, whatever became of the first. From failed, expired, cancelled or unresolved. Returns the new operation';

create function outbox.resolve(id bigint, outcome outbox.state, reason text) returns outbox.state
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    o outbox.operation := outbox.locked(resolve.id, resolve.reason);
    action_id bigint;
begin
    if o.state <> 'unresolved' then
        raise exception 'operation % is %, not unresolved', o.id, o.state using errcode = 'RO009',
            hint = case when o.finished_at is not null then 'It is final already.' else 'It is still being worked on.' end;
    elsif resolve.outcome is null or resolve.outcome not in ('succeeded', 'failed', 'cancelled', 'expired') then
        raise exception 'an operation is resolved as succeeded (it was executed) or failed (it was not), not %', resolve.outcome
            using errcode = 'RO009';
    end if;
    action_id := outbox.acted('resolve', o, resolve.reason, jsonb_build_object('to', resolve.outcome));
    update outbox.operation u
       set state = resolve.outcome, finished_at = clock_timestamp(), resolved_by = action_id, last_action = action_id
     where u.id = o.id;
    return resolve.outcome;
end $$;
comment on function outbox.resolve is
    'Settles an unresolved operation by what a person found out: succeeded (it was executed), or failed, cancelled or expired (it was not)';

create function outbox.known_account(name text, reason text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.need_reason(known_account.reason);
    perform from outbox.account a where a.name = known_account.name for no key update;
    if not found then
        raise exception 'there is no account %', quote_nullable(known_account.name) using errcode = 'RO002';
    end if;
end $$;
comment on function outbox.known_account is 'Locks an account; raises when there is none, or no reason';

create function outbox.pause(account text, reason text) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.known_account(pause.account, pause.reason);
    update outbox.account a set paused_at = coalesce(a.paused_at, clock_timestamp()), paused_reason = pause.reason where a.name = pause.account;
    insert into outbox.action (name, account, reason) values ('pause', pause.account, pause.reason);
end $$;
comment on function outbox.pause is 'Nothing of the account is claimed until a person resumes it; what is in flight ends by itself';

create function outbox.resume(account text, reason text default 'resumed') returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform outbox.known_account(resume.account, resume.reason);
    update outbox.account a set paused_at = null, paused_reason = null, blocked_until = null, blocked_reason = null
     where a.name = resume.account;
    update outbox.account_meter m set doubt_run = 0, probe_at = null, probe_wait = null where m.account = resume.account;
    delete from outbox.throttle t where t.account = resume.account;
    delete from outbox.suspicion s where s.account = resume.account;
    insert into outbox.action (name, account, reason) values ('resume', resume.account, resume.reason);
    notify ringonce;
end $$;
comment on function outbox.resume is 'Lifts the pause of an account, and whatever blocks workers have set on it';

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
    update outbox.retention r set scrub_from = null, purge_from = null, webhook_from = null
     where r.scrub_from is not null or r.purge_from is not null or r.webhook_from is not null
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

create function outbox.sizes(operation_id bigint, out payload_size integer, out response_size integer)
    language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select octet_length(o.payload::text), octet_length(o.response_body) from outbox.operation o where o.id = sizes.operation_id
$$;
comment on function outbox.sizes is 'Bytes of an operation''s payload and of its answer, for those who may read neither; null: there is none, or it was scrubbed';

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

-- Views ---------------------------------------------------------------------------------------------------------------

create view outbox.status as  -- each state by itself, because each has an index of its own, and named, not read: then the index alone is read
    select account, endpoint, 'queued'::outbox.state as state, count(*) as count, min(created_at) as oldest
      from outbox.operation where state = 'queued' group by account, endpoint
    union all
    select account, endpoint, 'in_flight'::outbox.state as state, count(*) as count, min(created_at) as oldest
      from outbox.operation where state = 'in_flight' group by account, endpoint
    union all
    select account, endpoint, 'unresolved'::outbox.state as state, count(*) as count, min(created_at) as oldest
      from outbox.operation where state = 'unresolved' group by account, endpoint
    union all
    select account, endpoint, state, sum(count)::bigint, null
      from outbox.finished_count group by account, endpoint, state having sum(count) <> 0;
comment on view outbox.status is
    'How many operations stand where, by account and endpoint. Finished ones are counted as they finish, and stay counted when they are purged';
comment on column outbox.status.account is 'The account';
comment on column outbox.status.endpoint is 'The endpoint';
comment on column outbox.status.state is 'The state';
comment on column outbox.status.count is 'How many';
comment on column outbox.status.oldest is 'When the oldest of them was enqueued; null for finished ones';

create view outbox.stop as
    select name as account, 'paused' as how, null as endpoint, paused_at as since, null::timestamptz as until, paused_reason as reason
      from outbox.account where paused_at is not null
    union all
    select name, 'blocked', null, null, blocked_until, blocked_reason from outbox.account where blocked_until is not null
    union all
    select a.name, 'in doubt', null, null, m.probe_at, m.doubt_run || ' ambiguous attempts in a row opened its breaker'
      from outbox.account a join outbox.account_meter m on m.account = a.name where m.probe_at is not null
    union all
    select account, 'throttled', endpoint, blocked_at, blocked_until, blocked_reason from outbox.throttle;
comment on view outbox.stop is 'What stops an account, or its use of an endpoint: a person, the API, or doubt. outbox.resume() lifts all of it';
comment on column outbox.stop.account is 'The account';
comment on column outbox.stop.how is 'paused: by a person. blocked, in doubt (the breaker is open), throttled: by workers';
comment on column outbox.stop.endpoint is 'The endpoint that is throttled; null: the account is stopped as a whole';
comment on column outbox.stop.since is 'When it was paused, or throttled last; null: not known';
comment on column outbox.stop.until is 'Nothing is claimed before this, and afterwards one operation at a time until one gets through; null: until a person resumes it';
comment on column outbox.stop.reason is 'What the person or the API said, or what opened the breaker';

create view outbox.backlog as
    select o.account, o.lane, count(*) as due_count, min(o.next_attempt_at) as oldest_due_at,
           clock_timestamp() - min(o.next_attempt_at) as oldest_age, a.paused_at is not null as paused, a.blocked_until
      from outbox.operation o join outbox.account a on a.name = o.account
     where o.state = 'queued' and o.next_attempt_at <= clock_timestamp()
     group by o.account, o.lane, a.paused_at, a.blocked_until;
comment on view outbox.backlog is 'What is due now and not yet claimed, by account and lane';
comment on column outbox.backlog.account is 'The account';
comment on column outbox.backlog.lane is 'The lane';
comment on column outbox.backlog.due_count is 'How many are due';
comment on column outbox.backlog.oldest_due_at is 'Since when the oldest is due';
comment on column outbox.backlog.oldest_age is 'For how long it has been due';
comment on column outbox.backlog.paused is 'A person paused the account';
comment on column outbox.backlog.blocked_until is 'Workers blocked the account until this';

create view outbox.unresolved as
    select o.id, o.account, o.endpoint, o.idempotency_key, o.lane, o.created_at, o.first_sent_at, o.key_window_closes_at, o.last_error,
           (select json_agg(json_build_object('number', a.number, 'started_at', a.started_at, 'finished_at', a.finished_at,
                                              'verdict', a.verdict, 'phase', a.phase, 'status', a.status, 'error', a.error,
                                              'may_have_been_executed', a.doubt) order by a.number)
              from outbox.attempt a where a.operation_id = o.id) as attempts
      from outbox.operation o where o.state = 'unresolved';
comment on view outbox.unresolved is 'Operations that may have been executed and whose key protects no retry, with what each attempt is known to have done';
comment on column outbox.unresolved.id is 'The operation';
comment on column outbox.unresolved.account is 'Its account';
comment on column outbox.unresolved.endpoint is 'Its endpoint';
comment on column outbox.unresolved.idempotency_key is 'Its key: ask the provider about this';
comment on column outbox.unresolved.lane is 'Its lane';
comment on column outbox.unresolved.created_at is 'When it was enqueued';
comment on column outbox.unresolved.first_sent_at is 'Earliest moment at which it may have been executed';
comment on column outbox.unresolved.key_window_closes_at is 'Until when outbox.retry() is possible';
comment on column outbox.unresolved.last_error is 'What went wrong last';
comment on column outbox.unresolved.attempts is 'Every attempt: when, verdict, how far it got, and whether it may have been executed';

create view outbox.key_expiring as
    select o.id, o.account, o.endpoint, o.state, o.first_sent_at, o.key_window_closes_at,
           o.key_window_closes_at - clock_timestamp() as time_left, o.next_attempt_at, o.attempt_count, o.last_error
      from outbox.operation o
     where o.state = 'queued' and o.first_sent_at is not null
     order by o.key_window_closes_at;
comment on view outbox.key_expiring is 'Operations in doubt that will be retried, by the time left to their key';
comment on column outbox.key_expiring.id is 'The operation';
comment on column outbox.key_expiring.account is 'Its account';
comment on column outbox.key_expiring.endpoint is 'Its endpoint';
comment on column outbox.key_expiring.state is 'Its state: queued';
comment on column outbox.key_expiring.first_sent_at is 'Earliest moment at which it may have been executed';
comment on column outbox.key_expiring.key_window_closes_at is 'When its key may protect no longer';
comment on column outbox.key_expiring.time_left is 'How long until then';
comment on column outbox.key_expiring.next_attempt_at is 'When it is due again';
comment on column outbox.key_expiring.attempt_count is 'Attempts so far';
comment on column outbox.key_expiring.last_error is 'What went wrong last';

create view outbox.throughput as
    with counted as (
        select minute, verdict, duration::double precision as duration, sum(count) as count
          from outbox.attempt_count where minute > statement_timestamp() - interval '1 hour'
         group by minute, verdict, duration having sum(count) > 0),
    ranked as (
        select minute, verdict, duration, sum(count) over (partition by minute, verdict order by duration) as rank,
               sum(count) over (partition by minute, verdict) as total
          from counted)
    select minute, verdict, max(total)::bigint as count,
           0.001 * 2 ^ ((min(duration) filter (where rank >= 0.50 * total) - 0.5) / 4) as p50,
           0.001 * 2 ^ ((min(duration) filter (where rank >= 0.95 * total) - 0.5) / 4) as p95,
           0.001 * 2 ^ ((min(duration) filter (where rank >= 0.99 * total) - 0.5) / 4) as p99
      from ranked group by minute, verdict;
comment on view outbox.throughput is
    'Attempts of the last hour, by minute and verdict, with how long they took from claim to record, to within a tenth of 1 ms or more. Not more is read if there were millions';
comment on column outbox.throughput.minute is 'Start of the minute in which they were claimed';
comment on column outbox.throughput.verdict is 'The verdict';
comment on column outbox.throughput.count is 'How many';
comment on column outbox.throughput.p50 is 'Median duration in seconds';
comment on column outbox.throughput.p95 is '95 % were faster, in seconds';
comment on column outbox.throughput.p99 is '99 % were faster, in seconds';

create view outbox.conflict as
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
comment on view outbox.conflict is
    'Proof that the API executed one key twice, or executed what is on record as not executed (law 11). Should be empty';
comment on column outbox.conflict.id is 'The operation';
comment on column outbox.conflict.account is 'Its account';
comment on column outbox.conflict.endpoint is 'Its endpoint';
comment on column outbox.conflict.state is 'What is on record';
comment on column outbox.conflict.idempotency_key is 'Its key';
comment on column outbox.conflict.recorded_provider_id is 'The provider''s id on record';
comment on column outbox.conflict.attempt_number is 'The attempt that tells otherwise; null: a webhook does';
comment on column outbox.conflict.provider_id is 'The provider''s id in its answer, or in the webhook';
comment on column outbox.conflict.body_sha256 is 'SHA-256 of its answer''s body; null: a webhook tells';
comment on column outbox.conflict.started_at is 'When the attempt started, or the webhook was matched';
comment on column outbox.conflict.meaning is 'What it proves';

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

create view outbox.shut as
    select why.reason, h.doubted_at, h.noted_at, h.timeline as known_timeline
      from outbox.history h cross join outbox.why_shut() as why (reason)
     where why.reason is not null;
comment on view outbox.shut is 'Why nothing is claimed: commits may have been lost. Should be empty; outbox.adopt_history() empties it';
comment on column outbox.shut.reason is 'What happened to the database';
comment on column outbox.shut.doubted_at is 'When a worker or a person doubted it; null: the cluster or the timeline tells';
comment on column outbox.shut.noted_at is
    'When workers last noted the old history. After a promotion or a recovery nothing that was committed before is lost; of a restored copy it tells nothing';
comment on column outbox.shut.known_timeline is 'The timeline in which claims were made';

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

create view outbox.result with (security_barrier) as
    select o.id, o.idempotency_key, o.account, o.endpoint, o.state, o.provider_id, o.response_status, o.response_headers, o.response_body,
           o.last_error, o.created_at, o.finished_at
      from outbox.operation o where o.enqueued_by = session_user;
comment on view outbox.result is 'What became of the operations that the session''s own user enqueued';
comment on column outbox.result.id is 'The operation';
comment on column outbox.result.idempotency_key is 'Its key';
comment on column outbox.result.account is 'Its account';
comment on column outbox.result.endpoint is 'Its endpoint';
comment on column outbox.result.state is 'Where it stands';
comment on column outbox.result.provider_id is 'The id the API gave it';
comment on column outbox.result.response_status is 'HTTP status of the answer that decided it';
comment on column outbox.result.response_headers is 'Headers of that answer: [[name, value], ...]';
comment on column outbox.result.response_body is 'Body of that answer, byte for byte';
comment on column outbox.result.last_error is 'What went wrong last';
comment on column outbox.result.created_at is 'When it was enqueued';
comment on column outbox.result.finished_at is 'When it became final';

-- Privileges ----------------------------------------------------------------------------------------------------------

revoke all on schema outbox from public;
revoke all on all functions in schema outbox from public;
revoke all on all tables in schema outbox from public;
grant usage on schema outbox to outbox_producer, outbox_worker, outbox_receiver, outbox_reader, outbox_admin;

grant execute on function outbox.enqueue, outbox.enqueue_many to outbox_producer, outbox_admin;
grant execute on function outbox.expect to outbox_producer;
grant select on outbox.result to outbox_producer;

grant execute on function outbox.claim, outbox.record, outbox.block, outbox.unblock, outbox.suspect, outbox.rescue, outbox.settle_passed,
    outbox.fold_counts, outbox.scrub, outbox.purge, outbox.forget_workers, outbox.due, outbox.note_history, outbox.doubt_history,
    outbox.claim_announcements, outbox.record_announcements to outbox_worker;
grant select on outbox.endpoint, outbox.account, outbox.schema_version to outbox_worker;
grant select, insert, update, delete on outbox.worker to outbox_worker;

grant select on outbox.status, outbox.stop, outbox.backlog, outbox.unresolved, outbox.key_expiring, outbox.throughput, outbox.conflict,
    outbox.worker, outbox.account, outbox.account_meter, outbox.endpoint, outbox.throttle, outbox.schema_version,
    outbox.history, outbox.shut, outbox.announcement, outbox.held, outbox.legal_hold, outbox.retention to outbox_reader, outbox_admin;
grant execute on function outbox.why_shut, outbox.sizes, outbox.is_held to outbox_reader, outbox_admin;
-- All that is on record about an operation, but not what it says and what was answered.
grant select (id, account, app_id, endpoint, idempotency_key, payload_sha256, lane, priority, state, next_attempt_at, deadline_at, attempt_count,
              attempt_number, first_sent_at, key_window_closes_at, settles_at, url, key_header, lease_expires_at, leased_by, response_status,
              provider_id, last_error, repeat_count, reissue_of, resolved_by, last_action, on_done, awaited, traceparent, enqueued_by, created_at, finished_at)
    on outbox.operation to outbox_reader;
grant select (operation_id, number, leased_by, started_at, finished_at, recorded, late, verdict, phase, status, error, provider_id, body_sha256,
              disproved, doubt) on outbox.attempt to outbox_reader;
grant select on outbox.action to outbox_reader;

grant execute on function outbox.cancel, outbox.retry, outbox.reissue, outbox.resolve, outbox.pause, outbox.resume, outbox.retire,
    outbox.doubt_history, outbox.adopt_history, outbox.confirm_history,
    outbox.hold, outbox.release, outbox.hold_all, outbox.release_all, outbox.require_export, outbox.note_export to outbox_admin;
grant update (tolerated_loss) on outbox.history to outbox_admin;
grant select on outbox.operation, outbox.attempt, outbox.action, outbox.suspicion, outbox.finished_count, outbox.attempt_count to outbox_admin;
grant insert, update, delete on outbox.endpoint to outbox_admin;
-- Not paused_* and blocked_*: those move by pause() and resume(), which leave a trace.
grant insert (name, app_id, base_url, max_in_flight, rate_per_second, burst, breaker_after, allow_guessable_keys),
      update (name, app_id, base_url, max_in_flight, rate_per_second, burst, breaker_after, allow_guessable_keys), delete on outbox.account to outbox_admin;

-- What webhooks tell. A receiver stands in the open: it can add to outbox.webhook, and read nothing of it.
grant execute on function outbox.receive, outbox.correlate to outbox_receiver;
grant select on outbox.schema_version to outbox_receiver;
grant execute on function outbox.correlate, outbox.watch_deliveries, outbox.forget_webhooks to outbox_worker;
grant execute on function outbox.expect_webhooks, outbox.webhook_is_held to outbox_admin;
grant select on outbox.undelivered, outbox.webhook_source to outbox_reader, outbox_admin;
grant select (id, account, received_at, next_look_at, problem) on outbox.webhook to outbox_reader;
grant select (operation_id, provider_id, state, status, told_at, webhook_id, first_at, changed_at, evidence, agrees, next_look_at, recipient_hint)
    on outbox.delivery to outbox_reader;
grant select on outbox.webhook, outbox.delivery, outbox.silence to outbox_admin;

-- A check calls its functions in the name of whoever writes the row.
grant execute on function outbox.is_plausible to outbox_worker, outbox_admin;
grant execute on function outbox.is_key, outbox.is_exact, outbox.exact to outbox_admin;

commit;
