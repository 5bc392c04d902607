"""Metrics for Prometheus: what the fleet's database says, and what this node's workers did.

    gauges.py     what stands where, read from the views at each scrape: `ringonce metrics`, one to a fleet
    meters.py     counters and histograms, counted from events in each process of a worker
    slots.py      the files by which a worker's processes add up, one to a slot of the pool
    node.py       a worker's own port: RINGONCE_METRICS_PORT
    serving.py    HTTP, /metrics and nothing else

Two kinds, because they must not be mixed: gauges belong to the database, are true after any restart, and
would be counted once for each node if every node told them; counters belong to a worker, and begin at
nothing when it does, as Prometheus expects. Nothing in here is imported unless somebody asks for metrics.

Labels are accounts, endpoints, states, verdicts and events: their number is bounded by rows that an
administrator wrote, and by our own words. No lane, key, number or text of an error is ever one.
"""

from __future__ import annotations

__all__: list[str] = []
