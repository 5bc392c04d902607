-- Renews this bell's place on the rota, and says how many slots the fleet has and who rings for it.
--
-- Run by: every bell, about once a poll. Index: worker_pkey. Locks: its own row, which nobody else writes.
-- The bell longest on duty rings. One that let its lease lapse (stopped, frozen, cut off) goes to the end:
-- it must not come back as the one that rings just because it was the first. Two that both believe
-- themselves elected, for the length of a poll, send a few wake-ups too many.
with mine as (
    insert into outbox.worker as place (node, pid, version, slots, on_duty_since, seen_at, lease_expires_at)
    values (
        %(node)s, %(pid)s, %(version)s, %(slots)s,
        clock_timestamp(), clock_timestamp(), clock_timestamp() + %(lease)s
    )
    on conflict (node, pid) do update set
        version = excluded.version,
        slots = excluded.slots,
        on_duty_since = case
            when place.lease_expires_at < excluded.seen_at then excluded.on_duty_since
            else place.on_duty_since
        end,
        seen_at = excluded.seen_at,
        lease_expires_at = excluded.lease_expires_at
    returning node, pid, slots, on_duty_since
),
rota as (
    select node, pid, slots, on_duty_since from mine
    union all
    select node, pid, slots, on_duty_since
    from outbox.worker
    where lease_expires_at > clock_timestamp() and (node, pid) <> (%(node)s, %(pid)s)
)
select
    (array_agg((node, pid) = (%(node)s, %(pid)s) order by on_duty_since, node, pid))[1] as elected,
    sum(slots)::integer as slots
from rota
