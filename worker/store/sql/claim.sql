-- Leases up to max_count due operations to this worker. With look_back (seconds): from the lanes it knows, each
-- from its mark on, and from what became due within it beside them. Null: from all lanes, on from where it was.
-- Rows without a lease_token come first, and tell of what it settled instead.
--
-- Run by: a drain with free slots. Index: operation_to_claim, operation_next_due, operation_in_flight,
-- operation_pkey. Locks: the meters of limited accounts, in the order of their names, and the rows it leases (and
-- while it runs, one more of a lane at most); past rows that others hold (skip locked).
select id, account, app_id, endpoint, endpoint_revision, lane, url, key_header, idempotency_key, payload,
       lease_token, number, send_within, call_deadline, claimed_at, attempt_count, doubt_since, key_window_closes_at,
       deadline_at, last_answer_sha256, repeat_count, other_passed, probe, traceparent, announces, priority, due_at,
       look_seconds
from outbox.claim(
    %(max_count)s, %(hold)s, %(node)s, %(after_account)s, %(after_endpoint)s, %(after_lane)s,
    array(
        select (account, endpoint, lane, mark_0, mark_1, mark_2, mark_3)::outbox.lane
        from unnest(
            %(known_accounts)s::text[], %(known_endpoints)s::text[], %(known_lanes)s::text[],
            %(marks_0)s::timestamptz[], %(marks_1)s::timestamptz[],
            %(marks_2)s::timestamptz[], %(marks_3)s::timestamptz[]
        ) with ordinality as known (account, endpoint, lane, mark_0, mark_1, mark_2, mark_3, place)
        order by place
    ),
    make_interval(secs => %(look_back)s)
)
