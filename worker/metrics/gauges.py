"""Gauges: what stands where, read from the database when Prometheus asks.

One process of a fleet tells them (``ringonce metrics``); it needs the role ``outbox_reader`` and no other.
While Postgres does not answer there is nothing to tell but that: the old numbers are not told again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import psycopg
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg import Connection
from psycopg.rows import TupleRow

from worker.complaint import complaint
from worker.observe import Event, emit
from worker.operation import State
from worker.store.connection import conninfo
from worker.store.measures import Measures, measure
from worker.store.sessions import limit

__all__ = ["Gauges", "told"]

FRESH_SECONDS: Final = 1.0
"""How long what was read is told again: however many ask, Postgres is asked once in this time."""


class Gauges(Collector):
    """The gauges of one database, on a connection that is kept."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._conn: Connection[TupleRow] | None = None
        self._told: list[Metric] = []
        self._fresh_until = clock()
        self._is_away = False

    def collect(self) -> Iterable[Metric]:
        """What was read just now, by one thread for all that ask meanwhile."""
        with self._lock:
            if self._clock() >= self._fresh_until:
                self._told = list(told(self._measure()))
                self._fresh_until = self._clock() + FRESH_SECONDS
            return self._told

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            self._hang_up()

    def _measure(self) -> Measures | None:
        """Everything; None if Postgres is away or refuses, which is said once."""
        try:
            measures = self._ask()
        except psycopg.Error as error:
            self._hang_up()
            if not self._is_away:
                emit(Event.DISCONNECTED, who="metrics", error=complaint(error))
            self._is_away = True
            return None
        if self._is_away:
            emit(Event.RECONNECTED, who="metrics")
        self._is_away = False
        return measures

    def _ask(self) -> Measures:
        """Ask over the connection that is kept or, if Postgres has hung up on that since, over a new one."""
        kept = self._conn
        try:
            return measure(self._connection())
        except psycopg.OperationalError:
            if kept is None or not kept.closed:
                raise
            self._hang_up()
            return measure(self._connection())

    def _connection(self) -> Connection[TupleRow]:
        if self._conn is None:
            info = conninfo(self._url, "ringonce metrics")
            self._conn = psycopg.connect(info, autocommit=True, prepare_threshold=None)
            limit(self._conn)
        return self._conn

    def _hang_up(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None


def told(measures: Measures | None) -> Iterator[Metric]:
    """*measures* as Prometheus reads them; None: the database did not answer."""
    yield _gauge("ringonce_database_up", "1: the outbox answered this scrape", float(measures is not None))
    if measures is not None:
        yield from _operations(measures)
        yield from _accounts(measures)
        yield from _fleet(measures)
        yield from _announcements(measures)
        yield from _webhooks(measures)


def _operations(measures: Measures) -> Iterator[Metric]:
    operations = _family(
        "ringonce_operations",
        "Operations in each state; final ones stay counted",
        "account",
        "endpoint",
        "state",
    )
    for each in measures.counts:
        operations.add_metric([each.account, each.endpoint, each.state.value], each.count)
    yield operations
    unresolved = Counter({each.account: 0 for each in measures.accounts})
    for each in measures.counts:
        unresolved[each.account] += each.count if each.state is State.UNRESOLVED else 0
    waiting = _family("ringonce_unresolved_operations", "Operations that wait for a person", "account")
    for account, count in sorted(unresolved.items()):
        waiting.add_metric([account], count)
    yield waiting


def _accounts(measures: Measures) -> Iterator[Metric]:
    by_account = {
        "backlog_operations": ("Operations that are due and not claimed", "due_count"),
        "backlog_oldest_seconds": ("For how long the oldest of them has been due", "oldest_due_seconds"),
        "in_doubt_operations": ("Queued operations that may have been executed", "in_doubt_count"),
        "key_window_seconds": ("Time left to the first of their keys; none: no sample", "window_seconds"),
        "account_paused": ("1: a person paused the account", "paused"),
        "account_blocked": ("1: workers stopped the account, for the API refuses it", "blocked"),
        "account_breaker_open": ("1: its breaker is open: one operation goes at a time", "breaker_open"),
        "account_throttled_endpoints": ("Endpoints that workers stopped for the account", "throttled_count"),
    }
    for name, (meaning, field) in by_account.items():
        family = _family(f"ringonce_{name}", meaning, "account")
        for each in measures.accounts:
            if (value := getattr(each, field)) is not None:
                family.add_metric([each.account], float(value))
        yield family


def _fleet(measures: Measures) -> Iterator[Metric]:
    fleet = measures.fleet
    yield _gauge("ringonce_conflicts", "Proofs that a key was executed twice", fleet.conflict_count)
    yield _gauge("ringonce_claims_shut", "1: commits may be lost, and nothing is claimed", float(fleet.shut))
    yield _gauge("ringonce_workers", "Workers that are alive", fleet.worker_count)
    yield _gauge("ringonce_slots", "Drains that they can run at once", fleet.slot_count)
    if fleet.oldest_transaction_seconds is not None:
        meaning = "Age of the longest transaction that keeps dead rows; needs pg_read_all_stats"
        yield _gauge("ringonce_oldest_transaction_seconds", meaning, fleet.oldest_transaction_seconds)


def _announcements(measures: Measures) -> Iterator[Metric]:
    waiting = measures.announcements
    yield _gauge("ringonce_announcements", "Tasks of on_done that are still to be sent", waiting.count)
    meaning = "For how long the oldest of them has been waiting"
    yield _gauge("ringonce_announcement_oldest_seconds", meaning, waiting.oldest_age.total_seconds())


def _webhooks(measures: Measures) -> Iterator[Metric]:
    meaning = "Operations that the API accepted and no webhook spoke of in time"
    undelivered = _family("ringonce_undelivered_operations", meaning, "account", "endpoint")
    for each in measures.sources:
        if each.due_within is not None:
            undelivered.add_metric([each.account, each.endpoint], each.undelivered_count)
    yield undelivered
    meaning = "Webhooks whose operation is not known, yet"
    yield _gauge("ringonce_unmatched_webhooks", meaning, measures.webhooks.unmatched_count)


def _family(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, labels=labels)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=value)
