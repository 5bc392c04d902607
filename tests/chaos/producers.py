"""The apps: they enqueue in transactions, through the same proxy as the workers, and repeat what was cut.

Each remembers what it did, for the verdict: what it committed, what it took back, and what it does not know
because its connection was cut and the run ended before it could ask again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import psycopg

from tests.chaos.stage import ACCOUNTS, Stage
from worker import enqueue, enqueue_many
from worker.errors import EnqueueError, KeyConflict
from worker.producer import NewOperation

ENDPOINTS = ("voice.call", "voice.broadcast", "sms.send", "whatsapp.send", "rcs.send", "message.send")
LANES = ("", "", "orders", "campaign")
PRODUCERS = 3
RATE = 40.0
"""Operations a second, of all producers together."""
MOST = 40_000
"""However long a run: the ledger and a machine's memory are finite."""
ROUNDS = 200
REST = 0.2
"""Before a transaction that was cut is repeated, in seconds."""


@dataclass(slots=True)
class Memory:
    """What an app knows of its keys, and what it asked for under them."""

    committed: dict[str, NewOperation] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    unknown: dict[str, NewOperation] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """The outbox would not have them: their deadline had passed when the cut transaction was repeated."""
    problems: list[str] = field(default_factory=list)

    def add(self, other: Memory) -> None:
        """Take in what another app knows."""
        for name in ("committed", "rolled_back", "unknown", "refused"):
            getattr(self, name).update(getattr(other, name))
        self.problems += other.problems


def _require_commit(transaction: psycopg.Transaction) -> None:
    """Raise unless it has committed.

    A psycopg transaction whose connection broke while its block dealt with another error ends without a word.
    """
    if transaction.status is not psycopg.Transaction.Status.COMMITTED:
        raise psycopg.OperationalError("the connection broke before the commit")


class Producer:
    """One app with one connection; ``run`` is its thread."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.memory = Memory()
        self._stage = stage
        self._random = Random(f"{stage.schedule.seed} producer {number}")  # noqa: S311  chance, not secrets
        self._conn: psycopg.Connection | None = None

    def run(self, until: Callable[[], bool]) -> None:
        """Enqueue at its share of the rate, until it is told to end."""
        try:
            while not until() and len(self.memory.committed) < MOST / PRODUCERS:
                operations = [self._new() for _ in range(self._size())]
                self._transact(operations)
                pause = len(operations) * PRODUCERS / RATE
                self._stage.over.wait(self._random.uniform(0.5, 1.5) * pause)
        finally:
            self._hang_up()

    def _size(self) -> int:
        return self._random.choice((1, 1, 1, 2, 3, 8))

    def _new(self) -> NewOperation:
        random = self._random
        key = str(UUID(int=random.getrandbits(128), version=4))
        now = datetime.now(UTC)
        start = now + timedelta(seconds=random.uniform(0.2, 3)) if random.random() < 0.1 else None
        deadline = now + timedelta(seconds=random.uniform(5, 20)) if random.random() < 0.1 else None
        return NewOperation(
            endpoint=random.choice(ENDPOINTS),
            payload=json.dumps({"to": random.randrange(10**12), "reference": key}),
            account=random.choices(list(ACCOUNTS), (4, 1))[0],
            idempotency_key=key,
            lane=random.choice(LANES),
            priority=random.choice((0, 1, 1, 2, 3)),
            not_before=start,
            deadline=deadline,
        )

    def _transact(self, operations: Sequence[NewOperation]) -> None:
        """Enqueue them in one transaction, which is repeated with the same keys for as long as it is cut."""
        asked = {str(each.idempotency_key): each for each in operations}
        if self._random.random() < 0.1:
            self._take_back(operations)
            return
        sent = False
        for _ in range(ROUNDS):
            try:
                with self._connection() as conn, conn.transaction() as transaction:
                    self._enqueue(conn, operations)
                    sent = True
                _require_commit(transaction)
            except EnqueueError as refusal:
                if sent:
                    self.memory.unknown |= asked
                else:
                    self.memory.refused |= asked.keys()
                self._check(refusal)
                return
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self._hang_up()
                if self._stage.over.wait(REST):
                    break
            else:
                self.memory.committed |= asked
                return
        if sent:
            self.memory.unknown |= asked
        else:
            self.memory.rolled_back |= asked.keys()

    def _take_back(self, operations: Sequence[NewOperation]) -> None:
        self.memory.rolled_back |= {str(each.idempotency_key) for each in operations}
        try:
            with self._connection() as conn, conn.transaction(force_rollback=True):
                self._enqueue(conn, operations)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            self._hang_up()

    def _enqueue(self, conn: psycopg.Connection, operations: Sequence[NewOperation]) -> None:
        if len(operations) > 2:
            enqueue_many(conn, operations)
        else:
            for each in operations:
                self._enqueue_one(conn, each)
        if self._random.random() < 0.1:
            self._enqueue_again(conn, operations[0])

    def _enqueue_one(self, conn: psycopg.Connection, new: NewOperation) -> None:
        enqueue(
            conn,
            new.endpoint,
            new.payload,
            account=new.account,
            idempotency_key=new.idempotency_key,
            lane=new.lane,
            priority=new.priority,
            not_before=new.not_before,
            deadline=new.deadline,
        )

    def _enqueue_again(self, conn: psycopg.Connection, new: NewOperation) -> None:
        """The same request returns the first operation; another one under its key is refused."""
        again = enqueue(
            conn, new.endpoint, new.payload, account=new.account, idempotency_key=new.idempotency_key
        )
        if again.created:
            self.memory.problems.append(f"{new.idempotency_key} was created twice")
        try:
            with conn.transaction():
                enqueue(conn, new.endpoint, {}, account=new.account, idempotency_key=new.idempotency_key)
        except KeyConflict:
            return
        self.memory.problems.append(f"{new.idempotency_key} stands for two requests")

    def _check(self, refusal: EnqueueError) -> None:
        if "deadline" not in str(refusal):
            self.memory.problems.append(f"refused: {refusal}")

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        """The one that is open; it stays open."""
        if self._conn is None or self._conn.closed:
            self._conn = psycopg.connect(self._stage.url, connect_timeout=5)
        yield self._conn

    def _hang_up(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
