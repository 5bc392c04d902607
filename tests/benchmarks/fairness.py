"""What one lane with a million operations in it does to all the others.

A node of 200 slots works on the million. Then 300 other lanes get 10 operations each, in one transaction:
how long until all 3,000 have arrived. In the order of a plain queue it would take as long as the million. The
million is written by plain SQL, a tenth of it at a time, with all triggers and checks.
"""

from __future__ import annotations

import time

import psycopg

from tests.benchmarks.node import first_arrivals, warm_node
from tests.benchmarks.ours import furnish
from tests.benchmarks.race import WARM_UP, wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig, Stage
from worker import NewOperation, enqueue_many

CROWD = 1_000_000
TENTHS = 10
LANES = 300
EACH = 10
SLOTS = 200
LONGEST = 120.0
"""How long the 3,000 may take before it is given up, in seconds."""

_CROWD = """
    insert into outbox.operation (endpoint, idempotency_key, payload, lane)
    select 'sms.send', gen_random_uuid()::text, '{"to": "+15550000000", "body": "Your code is 1234"}', 'crowd'
      from generate_series(1, %s)
"""


def run(rig: Rig) -> list[Line]:
    """Seconds until the last of the few has arrived."""
    with rig.stage() as stage:
        furnish(stage)
        with stage.connect() as conn:
            for _ in range(TENTHS):
                conn.execute(_CROWD, [CROWD // TENTHS])
            conn.execute("vacuum analyze")
            conn.execute("checkpoint")
            seconds = _few_among_many(stage, conn)
    what = f"{LANES * EACH:,} operations in {LANES} lanes, beside one lane with {CROWD:,}"
    return [Line("fairness", what, seconds, "s", goal=3, at_most=True)]


def _few_among_many(stage: Stage, conn: psycopg.Connection) -> float:
    few = [NewOperation("sms.send", '{"to": "+1555"}', lane=f"lane {i}") for i in range(LANES)] * EACH
    with warm_node(stage, conn, concurrency=SLOTS) as workers:
        time.sleep(WARM_UP)
        stage.api.begin()  # so that what came before need not be told, which would keep the API busy
        with conn.transaction():
            keys = {each.idempotency_key for each in enqueue_many(conn, few)}
        committed_at = time.time()

        def have_arrived() -> bool:
            if stage.api.counts().requests < len(keys):
                return False
            time.sleep(0.2)
            return keys <= first_arrivals(stage).keys()

        wait_for(have_arrived, LONGEST, "what is in the other lanes", workers)
        arrived = first_arrivals(stage)
    return max(arrived[key] for key in keys) - committed_at
