"""What years of use cost: 10 M finished operations, 1 M that are not due yet, and work in 300 lanes.

People are answered there, too (``pages``), right after all those runs: the last hour holds their attempts.

Throughput (API 0 ms) and latency of an outbox that is empty but for one lane of due work stand beside it,
measured before and after; the mean of the two counts. Each throughput is the median of three runs: one
differs from the next by a tenth; the second and the third also stand beside what the earlier ones left. The
old rows are written with triggers and keys unchecked, by the same statement for everybody: they are as the
product leaves them, each with its attempt.
"""

from __future__ import annotations

from statistics import fmean, median

import psycopg

from tests.benchmarks.contestants import Ringonce
from tests.benchmarks.latency import delays
from tests.benchmarks.ours import fill, furnish
from tests.benchmarks.pages import answered
from tests.benchmarks.processes import started
from tests.benchmarks.race import MEASURED, measured
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig, Stage

FINISHED, FUTURE, LANES = 10_000_000, 1_000_000, 300
DUE = 60_000
ROUNDS = 3
SAME = 1.2
"""Two medians of one outbox differ by a tenth."""
OURS = Ringonce(1, 200)
CHUNK = 1_000_000
WRITE_FINISHED = b"""
    with written as (
        insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, payload_sha256,
                                      lane, state, next_attempt_at, created_at, finished_at, first_sent_at,
                                      key_window_closes_at, response_status, response_body, provider_id,
                                      attempt_count, attempt_number, url, key_header)
        select 'default', 'bench-default', 'sms.send', gen_random_uuid(), '{"to": "+1555"}', sha256('{}'),
               'lane ' || n %% %(lanes)s, 'succeeded', null, at, at, at, at, 200, '{"result":0,"job_id":"x"}',
               gen_random_uuid()::text, 1, 1, 'http://127.0.0.1/', 'Idempotency-Key'
          from generate_series(1, %(count)s) as n
         cross join lateral (select clock_timestamp() - interval '1 day' - n * interval '0.1 s') as t (at)
        returning id, finished_at)
    insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at,
                                recorded, verdict, phase, status)
    select id, 1, gen_random_uuid(), 'node/1', finished_at, finished_at, true, 'accepted', 'answered', 200
      from written
"""
WRITE_FUTURE = b"""
    insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, payload_sha256, lane,
                                  next_attempt_at)
    select 'default', 'bench-default', 'sms.send', gen_random_uuid(), '{"to": "+1555"}', sha256('{}'),
           'lane ' || n %% %(lanes)s, clock_timestamp() + interval '1 day' + n * interval '0.1 s'
      from generate_series(1, %(count)s) as n
"""


def run(rig: Rig) -> list[Line]:
    """Empty, grown, empty again."""
    figures = [_measured(rig, grown=grown) for grown in (False, True, False)]
    (empty, at_once, _), (rate, delay, pages), (empty_again, at_once_again, _) = figures
    reference, soon = fmean([empty, empty_again]), fmean([at_once, at_once_again])
    return [
        Line("growth", "throughput when empty", reference, "/s"),
        Line("growth", "throughput with 10 M finished, 1 M future, 300 lanes", rate, "/s"),
        Line("growth", "grown : empty", rate / reference, "x", goal=0.9),
        Line("growth", "COMMIT to request, p50, when empty", 1000 * soon, "ms"),
        Line("growth", "COMMIT to request, p50, grown", 1000 * delay, "ms"),
        Line("growth", "COMMIT to request, grown : empty", delay / soon, "x", goal=SAME, at_most=True),
        *pages,
    ]


def _measured(rig: Rig, *, grown: bool) -> tuple[float, float, list[Line]]:
    """Operations a second, the median of what a lone one waits, and what people wait if it grew."""
    with rig.stage() as stage:
        furnish(stage)
        with stage.connect() as conn:
            if grown:
                _grow(conn)
            conn.execute("vacuum analyze")
            conn.execute("checkpoint")
        rate = median(_rate(stage, "lane {}" if grown else "") for _ in range(ROUNDS))
        delay = median(delays(stage))
        if not grown:
            return rate, delay, []
        with stage.connect() as conn:
            return rate, delay, answered(stage, conn)


def _rate(stage: Stage, lane: str) -> float:
    """Operations a second, of what is enqueued now in lanes of these names."""
    with stage.connect() as conn:
        for place in range(LANES):
            fill(conn, DUE // LANES, lane=lane.format(place))
    stage.api.begin()
    with started(OURS.commands(), OURS.environment(stage)) as workers:
        result, done = measured(OURS, stage, workers, MEASURED)
        workers.stop()
    if done >= DUE:
        raise RuntimeError("all that was due was done before it could be measured")
    with stage.connect() as conn:  # the rest would stand in the way of what is measured next
        conn.execute(
            b"update outbox.operation set next_attempt_at = clock_timestamp() + interval '1 day'"
            b" where state = 'queued' and account || ' ' || endpoint = 'default sms.send'"
            b" and next_attempt_at < (select clock_timestamp())"  # by index: reading all empties the cache
        )
    stage.api.begin()
    return result.rate


def _grow(conn: psycopg.Connection) -> None:
    conn.execute("set session_replication_role = replica")
    for _ in range(FINISHED // CHUNK):
        conn.execute(WRITE_FINISHED, {"count": CHUNK, "lanes": LANES})
    conn.execute(WRITE_FUTURE, {"count": FUTURE, "lanes": LANES})
    conn.execute("set session_replication_role = origin")
