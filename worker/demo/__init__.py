"""The main job, start to proof, in one command: ``ringonce demo``.

    stage   Postgres from a wheel, the imitation API with its faults on, a worker process
    apps    a shop's transactions: orders and operations, some rolled back, some said twice
    play    the apps enqueue, the worker delivers, is killed in the middle, and is started again
    proof   the API's ledger against the outbox, row by row

Every third request meets a fault, of the kinds that a retry mends: it is dropped after executing, hangs,
is cut off, reset, answered 500, 503 or 429, or finds nobody listening. Waits are set short, so that it all
fits into a minute; the outbox, the worker and the laws are those of production.
"""

from __future__ import annotations

from worker.demo.play import run

__all__ = ["run"]
