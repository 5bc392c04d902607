"""The proof: what the API did, by its own ledger, against what the outbox and the apps say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from psycopg import Connection

from worker.demo.apps import Memory
from worker.sandbox import Sandbox

__all__ = ["Proof", "prove"]

_OPERATIONS: Final = """
    select idempotency_key, state::text, response_status, response_body, encode(payload_sha256, 'hex')
    from outbox.operation
"""
_ORDERS: Final = "select count(*) from orders o join outbox.operation p on p.id = o.operation_id"


@dataclass(frozen=True, slots=True)
class Proof:
    """How the ledger and the outbox compare."""

    operations: int
    executed_once: int
    executed_twice: int
    lost: int
    """Committed, and never executed."""
    problems: tuple[str, ...]
    """Everything else that is not as it must be, in words."""

    @property
    def holds(self) -> bool:
        """Every phone rang once."""
        return self.executed_once == self.operations and not (
            self.executed_twice or self.lost or self.problems
        )

    def __str__(self) -> str:
        return (
            f"{'ok' if self.holds else 'WRONG'}: {self.operations} operations, "
            f"{self.executed_once} executed once, {self.executed_twice} twice, {self.lost} lost"
        )


def prove(conn: Connection, api: Sandbox, memory: Memory) -> Proof:
    """Compare row by row: executed exactly once, with the frozen bytes, and answered byte for byte."""
    executions = {each.key: each for each in api.ledger}
    times = Counter(each.key for each in api.ledger)
    rows = {row[0]: row[1:] for row in conn.execute(_OPERATIONS)}
    problems = []
    for key in memory.committed:
        if key not in rows:
            problems.append(f"{key} was committed, and the outbox does not have it")
            continue
        state, status, body, sent_sha256 = rows[key]
        execution = executions.get(key)
        if state != "succeeded":
            problems.append(f"{key} is {state}")
        elif execution is None or (status, body) != (execution.answer.status, execution.answer.body):
            problems.append(f"{key} has another answer on record than the API gave first")
        elif sent_sha256 != execution.body_sha256:
            problems.append(f"{key} was executed with another body than was frozen")
    problems += [f"{key} was rolled back, and executed" for key in memory.rolled_back if key in times]
    problems += [f"{key} was executed, and nobody asked for it" for key in times if key not in rows]
    return Proof(
        operations=len(memory.committed),
        executed_once=sum(times[key] == 1 for key in memory.committed),
        executed_twice=sum(count > 1 for count in times.values()),
        lost=sum(times[key] == 0 for key in memory.committed),
        problems=(*problems, *_count_orders(conn, memory)),
    )


def _count_orders(conn: Connection, memory: Memory) -> list[str]:
    row = conn.execute(_ORDERS).fetchone()
    found = row[0] if row else 0
    if found == len(memory.committed):
        return []
    return [f"{found} orders have an operation, not {len(memory.committed)}"]
