-- An outbox on its worst day: claims are shut, every account is stopped in another way, two calls were made twice, and
-- there is an operation for each thing that can become of one. ``tour.py`` goes by the numbers that are given here.
--
-- Written past the triggers, since it tells of hours that nobody waited for; every check holds for it. Run by a
-- superuser, in a session that is used for nothing else.

set session_replication_role = replica;

update outbox.history
   set doubted_at = clock_timestamp() - interval '5 min', doubted_reason = 'restored the snapshot of 02:00';
insert into outbox.account (name, app_id, max_in_flight, rate_per_second, burst, paused_at, paused_reason,
                            blocked_until, blocked_reason)
values ('billing', 'app-b', null, null, null, null, null, clock_timestamp() - interval '1 min', 'HTTP 401: UNAUTHORIZED'),
       ('campaign', 'app-c', 200, 50, 100, null, null, null, null),
       ('default', 'app-d', null, 5, null, null, null, null, null),
       ('mailing', 'app-m', null, null, null, null, null, clock_timestamp() + interval '90 min', 'HTTP 403: FORBIDDEN'),
       ('otp', 'app-o', 50, 20, null, null, null, null, null),
       ('partner', 'app-p', null, null, null, clock_timestamp() - interval '150 min', 'wrong caller id, asked Mia',
        null, null);
insert into outbox.account_meter (account, probe_at)
select name, case when name = 'otp' then clock_timestamp() + interval '20 s' end from outbox.account;
insert into outbox.throttle (account, endpoint, blocked_until, blocked_reason)
values ('campaign', 'sms.send', clock_timestamp() + interval '90 min', 'HTTP 429: RATE_LIMIT_EXCEEDED'),
       ('campaign', 'voice.call', clock_timestamp() - interval '1 s', 'HTTP 503: MAINTENANCE');
insert into outbox.worker (node, pid, version, slots, on_duty_since, seen_at, lease_expires_at)
values ('calls-1', 71, '0.1.0', 4, clock_timestamp() - interval '3 days', clock_timestamp(),
        clock_timestamp() + interval '1 h'),
       ('calls-2', 64, '0.1.0', 4, clock_timestamp() - interval '9 h', clock_timestamp() - interval '11 min',
        clock_timestamp() - interval '10 min');
insert into outbox.finished_count (account, endpoint, state, count)
values ('default', 'voice.call', 'succeeded', 10003), ('default', 'voice.call', 'failed', 2);
insert into outbox.action (id, name, operation_id, account, reason, acted_by) overriding system value
values (1, 'resolve', 104, 'default', 'not in their portal', 'ada'),
       (2, 'reissue', 110, 'default', 'the number was wrong', 'ada');

create function pg_temp.operation(id bigint, state outbox.state, more jsonb) returns void language sql as $$
    insert into outbox.operation overriding system value
    select made.*
      from jsonb_populate_record(null::outbox.operation, jsonb_build_object(
               'id', id, 'state', state, 'account', 'default', 'app_id', 'app-d', 'endpoint', 'voice.call',
               'idempotency_key', gen_random_uuid(), 'payload_sha256', sha256('x'), 'lane', 'orders', 'priority', 1,
               'payload', '{"from": "+6512345678", "to": ["+4915112345678"], "owner_ref": "order-4711"}'::jsonb,
               'attempt_count', 1, 'attempt_number', 1, 'repeat_count', 0, 'awaited', false, 'enqueued_by', 'shop',
               'url', 'https://api.enablex.io/voice/v1/call', 'key_header', 'Idempotency-Key',
               'created_at', clock_timestamp() - interval '40 h') || more) as made
$$;
create function pg_temp.attempt(
    operation_id bigint, number integer, ago interval, verdict outbox.verdict, phase outbox.phase, more jsonb default '{}')
    returns void language sql as $$
    insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at, recorded, late,
                                verdict, phase, status, error, provider_id, late_body, disproved)
    select attempt.operation_id, attempt.number, gen_random_uuid(), 'calls-1/91', clock_timestamp() - ago,
           case when attempt.verdict is not null then clock_timestamp() - ago + interval '30 s' end,
           attempt.phase is not null, coalesce(m.late, false), attempt.verdict, attempt.phase, m.status, m.error,
           m.provider_id, m.late_body, coalesce(m.disproved, false)
      from jsonb_populate_record(null::outbox.attempt, attempt.more) as m
$$;
-- In doubt since so long ago, with a key that protects for 23:50.
create function pg_temp.doubt(since interval) returns jsonb language sql as $$
    select jsonb_build_object('first_sent_at', clock_timestamp() - since,
                              'key_window_closes_at', clock_timestamp() - since + interval '23:50:00')
$$;

-- 101: under way. 102: an answer, after one attempt that sent nothing and one that was throttled. 103: scrubbed.
select pg_temp.operation(101, 'in_flight', pg_temp.doubt('1 s') || jsonb_build_object(
           'lease_token', gen_random_uuid(), 'lease_expires_at', clock_timestamp() + interval '1 h',
           'leased_by', 'calls-1/91', 'deadline_at', clock_timestamp() + interval '2 h', 'on_done', 'shop.called',
           'traceparent', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')),
       pg_temp.attempt(101, 1, '1 s', null, null);
select pg_temp.operation(102, 'succeeded', pg_temp.doubt('5 min') || jsonb_build_object(
           'finished_at', clock_timestamp(), 'response_status', 200, 'provider_id', 'job-7', 'attempt_number', 3,
           'response_headers', '[["Content-Type", "application/json"]]'::jsonb, 'response_body', '{"job_id": "job-7"}')),
       pg_temp.attempt(102, 1, '7 min', 'not_sent', 'connecting', '{"error": "connection refused"}'),
       pg_temp.attempt(102, 2, '6 min', 'throttled', 'answered', '{"status": 429, "error": "HTTP 429"}'),
       pg_temp.attempt(102, 3, '5 min', 'accepted', 'answered', '{"status": 200, "provider_id": "job-7"}');
select pg_temp.operation(103, 'succeeded', pg_temp.doubt('39 h') || jsonb_build_object(
           'finished_at', clock_timestamp() - interval '39 h', 'response_status', 200, 'payload', null)),
       pg_temp.attempt(103, 1, '39 h', 'accepted', 'answered', '{"status": 200}');

-- 104: executed, although somebody found out that it was not. 105: executed twice. Both tell it too late.
select pg_temp.operation(104, 'failed', pg_temp.doubt('30 h') || jsonb_build_object(
           'finished_at', clock_timestamp() - interval '20 h', 'resolved_by', 1, 'last_error', 'read timeout after 30 s')),
       pg_temp.attempt(104, 1, '30 h', 'ambiguous', 'sent', '{"error": "read timeout after 30 s"}'),
       pg_temp.attempt(104, 2, '29 h', 'accepted', 'answered',
                       '{"status": 200, "late": true, "provider_id": "job-8", "late_body": "{\"job_id\": \"job-8\"}"}');
select pg_temp.operation(105, 'succeeded', pg_temp.doubt('30 h') || jsonb_build_object(
           'finished_at', clock_timestamp() - interval '29 h', 'response_status', 200, 'provider_id', 'job-7')),
       pg_temp.attempt(105, 1, '30 h', 'accepted', 'answered', '{"status": 200, "provider_id": "job-7"}'),
       pg_temp.attempt(105, 2, '29 h', 'accepted', 'answered', '{"status": 200, "late": true, "provider_id": "job-9"}');

-- 106: waits for its next attempt, in doubt. 107: due, but its key protects no longer.
select pg_temp.operation(106, 'queued', pg_temp.doubt('2 h') || jsonb_build_object(
           'next_attempt_at', clock_timestamp() + interval '330 min', 'settles_at', clock_timestamp() + interval '20 s',
           'repeat_count', 3, 'attempt_count', 2, 'attempt_number', 2, 'last_error', 'HTTP 502: Bad Gateway')),
       pg_temp.attempt(106, 1, '3 h', 'ambiguous', 'answered', '{"status": 502, "error": "HTTP 502", "disproved": true}'),
       pg_temp.attempt(106, 2, '2 h', 'ambiguous', 'answered', '{"status": 502, "error": "HTTP 502: Bad Gateway"}');
select pg_temp.operation(107, 'queued', pg_temp.doubt('25 h') || jsonb_build_object(
           'next_attempt_at', clock_timestamp() - interval '1 h', 'last_error', 'read timeout after 30 s')),
       pg_temp.attempt(107, 1, '25 h', 'ambiguous', 'sent', '{"error": "read timeout after 30 s"}');

-- 108, 109: never sent. 110: refused, and done again as 111, which was not tried yet.
select pg_temp.operation(id, state, jsonb_build_object(
           'account', 'partner', 'app_id', 'app-p', 'finished_at', clock_timestamp() - interval '30 h', 'attempt_count', 0,
           'attempt_number', 0, 'url', null, 'key_header', null))
  from (values (108, 'cancelled'::outbox.state), (109, 'expired')) as v (id, state);
select pg_temp.operation(110, 'failed', jsonb_build_object(
           'finished_at', clock_timestamp() - interval '30 h', 'response_status', 400, 'last_action', 2,
           'last_error', 'HTTP 400: +4915100000077 is not a valid number')),
       pg_temp.attempt(110, 1, '30 h', 'refused', 'answered',
                       '{"status": 400, "error": "HTTP 400: +4915100000077 is not a valid number"}');
select pg_temp.operation(111, 'queued', jsonb_build_object(
           'reissue_of', 110, 'next_attempt_at', clock_timestamp() - interval '2 h', 'attempt_count', 0,
           'attempt_number', 0, 'url', null, 'key_header', null));

-- 112, 201 to 240: wait for a person; every other one's key still protects a retry.
select pg_temp.operation(112, 'unresolved', pg_temp.doubt('39 h') || '{"attempt_number": 4, "last_error": "HTTP 502"}'),
       pg_temp.attempt(112, 1, '39 h', 'accepted', 'answered', '{"status": 200, "late": true, "provider_id": "job-12"}'),
       pg_temp.attempt(112, 2, '38 h', 'refused', 'answered', '{"status": 400, "error": "HTTP 400"}'),
       pg_temp.attempt(112, 3, '37 h', 'ambiguous', 'answered', '{"status": 502, "error": "HTTP 502"}'),
       pg_temp.attempt(112, 4, '36 h', 'ambiguous', null, '{"error": "cut off by its lease"}');
select pg_temp.operation(id, 'unresolved',
                         pg_temp.doubt(since) || '{"lane": "", "last_error": "read timeout after 30 s"}'),
       pg_temp.attempt(id, 1, since, 'ambiguous', 'sent', '{"error": "read timeout after 30 s"}')
  from (select id, case when id % 2 = 0 then interval '3 h' else '26 h' end as since
          from generate_series(201, 240) as id) as v;

-- 301 to 308: due, each in a lane of its own. 1001 to 11000: as many as one page looks through.
select pg_temp.operation(id, 'queued', jsonb_build_object(
           'lane', 'lane ' || id, 'next_attempt_at', clock_timestamp() - interval '1 h', 'attempt_count', 0,
           'attempt_number', 0, 'url', null, 'key_header', null))
  from generate_series(301, 308) as id;
insert into outbox.operation (id, account, app_id, endpoint, idempotency_key, payload, payload_sha256, state,
                              next_attempt_at, created_at, finished_at, first_sent_at, key_window_closes_at,
                              response_status, attempt_count, attempt_number, url, key_header) overriding system value
select id, 'default', 'app-d', 'voice.call', gen_random_uuid(), '{}', sha256('{}'), 'succeeded', null,
       clock_timestamp() - interval '2 h', clock_timestamp() - interval '1 h', clock_timestamp() - interval '2 h',
       clock_timestamp() + interval '22 h', 200, 1, 1, 'https://api.enablex.io/voice/v1/call', 'Idempotency-Key'
  from generate_series(1001, 11000) as id;

select setval(pg_get_serial_sequence('outbox.operation', 'id'), 11000),
       setval(pg_get_serial_sequence('outbox.action', 'id'), 2);
analyze;

insert into outbox.delivery (operation_id, provider_id, recipient, state, status, told_at, webhook_id, evidence, agrees, next_look_at)
values (102, 'job-7', '+919876543210', 'delivered', 'DELIVRD', now() - interval '1 min', 1, true, true, null),
       (102, 'job-7', '', 'sent', 'sent', null, 2, true, true, null);

insert into outbox.attempt_count (minute, verdict, duration, count)
select date_trunc('minute', started_at), verdict, ceil(4 * log(2, extract(epoch from 1000 * (finished_at - started_at)))), 1
  from outbox.attempt where finished_at > started_at;
