-- What the throughput tells is counted as it happens, and no longer read from each attempt of the last hour.
--
-- Works with workers from: 1
-- Locks: operation (exclusive), attempt (share row exclusive), finished_count (access exclusive), throughput (access exclusive)

begin;

lock table outbox.operation in exclusive mode;
lock table outbox.attempt in share row exclusive mode;
lock table outbox.finished_count in access exclusive mode;

-- It begins empty: an hour later the throughput tells of a whole hour.
create table if not exists outbox.attempt_count (
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
-- Neither has a key: whole rows are told, or whoever publishes all tables could delete none of them.
alter table outbox.finished_count replica identity full;

create or replace function outbox.attempt_counts() returns trigger
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
create or replace trigger attempt_counts after update on outbox.attempt
    referencing old table as before_rows new table as after_rows
    for each statement execute function outbox.attempt_counts();

create or replace function outbox.fold_counts() returns integer
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

create or replace view outbox.throughput as
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

revoke all on table outbox.attempt_count from public;
revoke all on function outbox.attempt_counts from public;
grant select on outbox.attempt_count to outbox_admin;

commit;

-- Not before: this waits for whoever reads attempts, pg_dump say, and while it waits the index serves nobody. The view as it was
-- would read every attempt there is.
drop index concurrently if exists outbox.attempt_of_last_hour;

begin;

insert into outbox.schema_version (version, compatible_from) values (5, 1);

commit;
