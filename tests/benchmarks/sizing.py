"""What a load takes, as arithmetic: ``python -m tests.benchmarks.sizing --per-day 1000000 --peak 50``.

Nothing is measured here. ``MEASURED`` holds what ``python -m tests.benchmarks capacity`` measured, which also
checks this arithmetic against points that none of it was taken from; deploy/CAPACITY.md tells what it means.
Prices are yours: without any there is no cost.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields

GB = 10**9
DAY = 86_400
PAGE = 8_192


@dataclass(frozen=True, slots=True)
class Costs:
    """What one operation, or one process, takes. Bytes and seconds; one attempt for each operation."""

    heap: float
    """Row of ``outbox.operation``, beside its payload."""
    attempt: float
    """Row of ``outbox.attempt`` with its index; for each attempt."""
    indexes: float
    """Entries of the indexes of ``outbox.operation``."""
    scrubbed: float
    """Row of an operation whose payload and answer were scrubbed."""
    key_entry: float
    """Entry of ``operation_key_is_unique``, which is entered at random places, as it grows."""
    provider_entry: float
    """The same of ``operation_of_provider``."""
    wal: float
    """Write-ahead log from the enqueue to the answer, beside the payload and what a checkpoint adds."""
    wal_per_payload_byte: float
    """How often a payload's bytes go through it."""
    wal_retired: float
    """Write-ahead log of scrubbing and deleting it."""
    worker_cpu: float
    """Of a worker's processor."""
    postgres_cpu: float
    """Of Postgres' processor, share of the enqueue included."""
    node_connections: int
    """Of each node, beside those of its processes: its bell."""
    process_connections: int
    """Of each process at most: four of its pool, and its ear."""
    process_memory: float
    """Of one process with no call in flight."""
    call_memory: float
    """Of each call in flight."""


MEASURED = Costs(
    heap=684,
    attempt=367,
    indexes=300,
    scrubbed=512,
    key_entry=105,
    provider_entry=78,
    wal=3_174,
    wal_per_payload_byte=1.82,
    wal_retired=1_770 + 836,
    worker_cpu=205e-6,
    postgres_cpu=130e-6,
    node_connections=1,
    process_connections=5,
    process_memory=78.5e6,
    call_memory=21e3,
)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of an outbox."""

    per_day: float
    """Operations."""
    peak: float
    """Operations a second, at the worst of times."""
    latency: float = 0.3
    """Seconds that the API takes for a call."""
    payload: float = 200
    """Bytes."""
    attempts: float = 1.0
    """For each operation, on average."""
    retention_days: float = 30
    """``RINGONCE_RETENTION_DAYS``: rows have payload and answer for so long."""
    purge_days: float = 0
    """``RINGONCE_PURGE_DAYS``: there are rows for so long; 0: twice as long."""
    concurrency: int = 100
    """``RINGONCE_CONCURRENCY``."""
    busy: float = 0.5
    """Share of a processor's time that may be taken at the peak."""
    processes_per_node: int = 2
    checkpoint_seconds: float = 300
    """``checkpoint_timeout`` of Postgres."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Of your provider, for a month, in whatever currency."""

    vcpu: float = 0.0
    memory_gb: float = 0.0
    disk_gb: float = 0.0
    backup_gb: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes."""

    in_flight: float
    """Calls at once, at the peak (Little's law)."""
    processes: int
    nodes: int
    worker_vcpu: float
    worker_memory_gb: float
    postgres_vcpu: float
    connections: int
    rows_full: float
    rows_scrubbed: float
    disk_gb: float
    wal_gb_per_day: float

    def cost(self, prices: Prices, *, backup_days: float = 7) -> float:
        """A month's: two copies of the database, one base backup and the log of *backup_days*."""
        return (
            prices.vcpu * (self.worker_vcpu + 2 * self.postgres_vcpu)
            + prices.memory_gb * self.worker_memory_gb
            + prices.disk_gb * 2 * self.disk_gb
            + prices.backup_gb * (self.disk_gb + backup_days * self.wal_gb_per_day)
        )


def rows(load: Load) -> tuple[float, float]:
    """How many finished ones there are with payload and answer, and how many scrubbed."""
    kept = load.purge_days or 2 * load.retention_days
    return load.per_day * load.retention_days, load.per_day * (kept - load.retention_days)


def in_flight(rate: float, latency: float) -> float:
    """Little's law: what is under way, of what comes at that rate and takes so long."""
    return rate * latency


def connections(nodes: int, processes: int, costs: Costs = MEASURED) -> int:
    """What workers open, without a pooler: *processes* are those of all nodes."""
    return nodes * costs.node_connections + processes * costs.process_connections


def bytes_full(load: Load, costs: Costs = MEASURED) -> float:
    """Of one finished operation with payload and answer, its indexes and its attempts."""
    return costs.heap + load.payload + costs.indexes + load.attempts * costs.attempt


def bytes_scrubbed(load: Load, costs: Costs = MEASURED) -> float:
    """The same, once payload and answer were scrubbed."""
    return costs.scrubbed + costs.indexes + load.attempts * costs.attempt


def whole_pages(rows: float, operations: float, entries: tuple[float, float]) -> float:
    """Bytes of the log for each of so many *operations* between two checkpoints: pages written whole.

    A page is, when it is first changed after a checkpoint. Two indexes are entered at random places: of its
    pages, n entries meet ``pages * (1 - exp(-n / pages))``. Others are entered at their end.
    """
    touched = 0.0
    for entry in entries:
        pages = rows * entry / PAGE
        touched += pages * (1 - math.exp(-operations / pages))
    return PAGE * touched / operations


def wal(load: Load, costs: Costs = MEASURED) -> float:
    """Bytes of write-ahead log for one operation, from its enqueue until it is deleted."""
    between = load.per_day / DAY * load.checkpoint_seconds
    return (
        load.attempts * (costs.wal + costs.wal_per_payload_byte * load.payload)
        + whole_pages(sum(rows(load)), between, (costs.key_entry, costs.provider_entry))
        + costs.wal_retired
    )


def plan(load: Load, costs: Costs = MEASURED) -> Plan:
    """What *load* takes."""
    calls = in_flight(load.peak, load.latency) * load.attempts
    worker_vcpu = load.peak * load.attempts * costs.worker_cpu / load.busy
    processes = max(math.ceil(calls / load.concurrency), math.ceil(worker_vcpu), 2)
    nodes = max(2, math.ceil(processes / load.processes_per_node))
    full, scrubbed = rows(load)
    disk = full * bytes_full(load, costs) + scrubbed * bytes_scrubbed(load, costs)
    return Plan(
        in_flight=calls,
        processes=processes,
        nodes=nodes,
        worker_vcpu=worker_vcpu,
        worker_memory_gb=(processes * costs.process_memory + calls * costs.call_memory) / GB,
        postgres_vcpu=load.peak * load.attempts * costs.postgres_cpu / load.busy,
        connections=connections(nodes, max(processes, nodes), costs),
        rows_full=full,
        rows_scrubbed=scrubbed,
        disk_gb=disk / GB,
        wal_gb_per_day=load.per_day * wal(load, costs) / GB,
    )


def told(made: Plan) -> list[tuple[str, str]]:
    """The plan, a line each."""
    return [
        ("calls in flight at the peak", f"{made.in_flight:,.0f}"),
        ("worker processes, on nodes", f"{made.processes} on {made.nodes}"),
        ("vCPU of workers at the peak", f"{made.worker_vcpu:.2f}"),
        ("memory of workers", f"{made.worker_memory_gb:.2f} GB"),
        ("vCPU of Postgres at the peak", f"{made.postgres_vcpu:.2f}"),
        ("connections of workers, at most", f"{made.connections}"),
        ("rows with payload, and scrubbed", f"{made.rows_full:,.0f} and {made.rows_scrubbed:,.0f}"),
        ("disk", f"{made.disk_gb:,.1f} GB"),
        ("write-ahead log a day", f"{made.wal_gb_per_day:,.2f} GB"),
    ]


def main() -> None:
    """Print the plan of the load that is given, and its cost if prices are."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sizing", description=__doc__)
    for field in fields(Load):
        name = f"--{field.name.replace('_', '-')}"
        kind = int if field.type == "int" else float
        if field.name in {"per_day", "peak"}:
            parser.add_argument(name, type=kind, required=True)
        else:
            parser.add_argument(name, type=kind, default=field.default, help="default: %(default)s")
    for field in fields(Prices):
        parser.add_argument(f"--price-{field.name.replace('_', '-')}", type=float, default=0.0)
    given = vars(parser.parse_args())
    prices = Prices(**{field.name: given.pop(f"price_{field.name}") for field in fields(Prices)})
    made = plan(Load(**given))
    lines = told(made)
    if prices != Prices():
        lines.append(("cost a month, by your prices", f"{made.cost(prices):,.2f}"))
    for what, value in lines:
        print(f"{what:<34}{value}")  # noqa: T201  it is what it is for


if __name__ == "__main__":
    main()
