-- An outbox on an ordinary afternoon: an hour of attempts, four accounts, and something of every state.
--
-- Written past the triggers, since it tells of an hour that nobody waited for; every check holds for it. Run by a
-- superuser, in a session that is used for nothing else.

set session_replication_role = replica;
select setseed(0.25);  -- the same afternoon each time

insert into outbox.account (name, app_id, max_in_flight, rate_per_second, burst, paused_at, paused_reason,
                            blocked_until, blocked_reason)
values ('campaign', 'app-c', 200, 50, 100, null, null, null, null),
       ('default', 'app-d', null, null, null, null, null, null, null),
       ('otp', 'app-o', 50, 20, null, null, null, clock_timestamp() + interval '44 min', 'HTTP 401: UNAUTHORIZED'),
       ('partner', 'app-p', null, 5, null, clock_timestamp() - interval '26 min', 'wrong caller id, asked Mia',
        null, null);
insert into outbox.account_meter (account) select name from outbox.account on conflict do nothing;
insert into outbox.throttle (account, endpoint, blocked_until, blocked_reason)
values ('campaign', 'sms.send', clock_timestamp() + interval '44 min', 'HTTP 429: RATE_LIMIT_EXCEEDED');
insert into outbox.worker (node, pid, version, slots, on_duty_since, seen_at, lease_expires_at)
values ('calls-1', 71, '0.1.0', 4, clock_timestamp() - interval '3 days', clock_timestamp() - interval '2 s',
        clock_timestamp() + interval '1 h'),
       ('calls-2', 64, '0.1.0', 4, clock_timestamp() - interval '9 h', clock_timestamp() - interval '1 s',
        clock_timestamp() + interval '1 h'),
       ('calls-3', 70, '0.1.0', 4, clock_timestamp() - interval '9 h', clock_timestamp() - interval '11 min',
        clock_timestamp() - interval '10 min');

insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, payload_sha256, lane, state,
                              next_attempt_at, created_at, finished_at, first_sent_at, key_window_closes_at,
                              response_status, response_headers, response_body, provider_id, attempt_count,
                              attempt_number, url, key_header)
select account, 'app-' || left(account, 1), endpoint, gen_random_uuid(), payload::json,
       sha256(convert_to(payload, 'UTF8')), lane, 'succeeded', null, at - interval '80 ms', at + took, at,
       at + interval '23:50:00', 200, '[["Content-Type", "application/json"]]',
       convert_to('{"result": 0, "job_id": "job-' || n || '"}', 'UTF8'), 'job-' || n, 1, 1,
       'https://api.enablex.io/sms/v1/messages/', 'Idempotency-Key'
  from (select n, clock_timestamp() - interval '59 min' + n * interval '1.1 s' as at,
               (array['default', 'campaign', 'default'])[1 + n % 3] as account,
               (array['sms.send', 'sms.send', 'voice.call'])[1 + n % 3] as endpoint,
               (array['orders', 'spring sale', ''])[1 + n % 3] as lane,
               '{"from": "SHOP", "to": ["+49301' || 100000 + n || '"], "data": "On its way"}' as payload,
               (0.09 + 0.05 * sin(n / 300.0) + 0.06 * random() + (n % 37 = 0)::int * 0.4) * interval '1 s' as took
          from generate_series(1, 3200) as n
         where random() < 0.55 + 0.4 * sin(n / 500.0)) as made;
insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at, recorded, verdict,
                            phase, status, provider_id)
select id, 1, gen_random_uuid(), 'calls-' || 1 + id % 2 || '/9' || id % 4, first_sent_at, finished_at, true,
       'accepted', 'answered', 200, provider_id
  from outbox.operation where state = 'succeeded';
insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at, recorded, verdict,
                            phase, status, error)
select id, 2, gen_random_uuid(), 'calls-1/91', first_sent_at, finished_at + interval '30 s', true,
       case when id % 2 = 0 then 'ambiguous' else 'throttled' end::outbox.verdict,
       case when id % 2 = 0 then 'sent' else 'answered' end::outbox.phase, case when id % 2 = 1 then 429 end,
       case when id % 2 = 0 then 'read timeout' else 'HTTP 429' end
  from outbox.operation where state = 'succeeded' and id % 23 < 2;
insert into outbox.attempt_count (minute, verdict, duration, count)
select date_trunc('minute', started_at), verdict, ceil(4 * log(2, extract(epoch from 1000 * (finished_at - started_at)))), 1
  from outbox.attempt;
insert into outbox.finished_count (account, endpoint, state, count)
values ('default', 'sms.send', 'succeeded', 1284311), ('default', 'voice.call', 'failed', 214),
       ('campaign', 'sms.send', 'expired', 37), ('default', 'voice.call', 'cancelled', 12);

insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, payload_sha256, lane,
                              created_at, next_attempt_at)
select account, 'app-' || left(account, 1), 'sms.send', gen_random_uuid(), payload::json,
       sha256(convert_to(payload, 'UTF8')), lane, due, due
  from (select n, '{"from": "SHOP", "to": ["+49302' || 100000 + n || '"], "data": "20 % off"}' as payload,
               (array['partner', 'campaign', 'otp'])[1 + n % 3] as account,
               (array['bookings', 'spring sale', ''])[1 + n % 3] as lane,
               clock_timestamp() - n * interval '3 s' as due
          from generate_series(1, 420) as n) as made;
insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, payload_sha256, lane, state,
                              next_attempt_at, created_at, first_sent_at, key_window_closes_at, url, key_header,
                              lease_token, lease_expires_at, leased_by, attempt_count, attempt_number)
select 'default', 'app-d', 'voice.call', gen_random_uuid(), '{"from": "+6512345678"}',
       sha256('{"from": "+6512345678"}'), 'orders', 'in_flight', null, clock_timestamp(), clock_timestamp(),
       clock_timestamp() + interval '23:50:00', 'https://api.enablex.io/voice/v1/call', 'Idempotency-Key',
       gen_random_uuid(), clock_timestamp() + interval '1 h', 'calls-' || 1 + n % 2 || '/93', 1, 1
  from generate_series(1, 9) as n;
insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at)
select id, 1, lease_token, leased_by, first_sent_at from outbox.operation where state = 'in_flight';

with made as (
    insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, payload_sha256, lane, state,
                                  next_attempt_at, created_at, finished_at, last_error, attempt_count,
                                  attempt_number, url, key_header, response_status)
    select 'default', 'app-d', 'voice.call', gen_random_uuid(), '{"to": ["+4930777"]}',
           sha256('{"to": ["+4930777"]}'), 'orders', state, null, clock_timestamp() - interval '2 h',
           clock_timestamp() - interval '1 h',
           case state when 'failed' then 'HTTP 400: +4915100000077 is not a valid number' end, 1, 1,
           'https://api.enablex.io/voice/v1/call', 'Idempotency-Key',
           case state when 'failed' then 400 end
      from unnest(array['failed', 'failed', 'expired', 'expired', 'cancelled']::outbox.state[]) as state
    returning id, state)
insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at, recorded,
                            verdict, phase, status, error)
select id, 1, gen_random_uuid(), 'calls-1/90', clock_timestamp() - interval '2 h',
       clock_timestamp() - interval '119 min', true, 'refused', 'answered', 400,
       'HTTP 400: +4915100000077 is not a valid number'
  from made;

with made as (
    insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, payload_sha256, lane, state,
                                  next_attempt_at, created_at, first_sent_at, key_window_closes_at, url,
                                  key_header, attempt_count, attempt_number, last_error)
    select 'default', 'app-d', 'voice.broadcast', gen_random_uuid(),
           ('{"from": "+6512345678", "to": ["+4915112345678"], "owner_ref": "order-4711"}')::json,
           sha256('x'), 'orders', state, case state when 'queued' then clock_timestamp() + interval '7 min' end,
           clock_timestamp() - since, clock_timestamp() - since,
           clock_timestamp() - since + interval '23:50:00',
           'https://api.enablex.io/voice/v1/broadcast', 'Idempotency-Key', 2, 2, 'read timeout after 30 s'
      from (values ('unresolved'::outbox.state, interval '25 h'), ('queued', interval '20 h'),
                   ('queued', interval '3 h'), ('unresolved', interval '26 h'), ('unresolved', interval '31 h'),
               ('unresolved', interval '9 h'), ('unresolved', interval '7 h'),
                   ('unresolved', interval '5 h')) as v (state, since)
    returning id, first_sent_at)
insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at, recorded,
                            verdict, phase, status, error)
select id, number, gen_random_uuid(), 'calls-' || number || '/92', first_sent_at + number * interval '4 min',
       first_sent_at + number * interval '4 min' + interval '30 s', number = 1,
       'ambiguous', case when number = 1 then 'sent' end::outbox.phase, null,
       case when number = 1 then 'read timeout after 30 s' else 'its worker was lost' end
  from made, generate_series(1, 2) as number;

analyze;
