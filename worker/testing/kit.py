"""The value of the fixture ``ringonce``: all that a test of an app asks of its outbox, in one hand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack

import psycopg

from worker.connections import Asynchronous, Synchronous, arunner, runner
from worker.drain import Counts
from worker.sandbox import Execution, Sandbox
from worker.testing.delivering import deliver
from worker.testing.expecting import Expected, Named
from worker.testing.operations import READ, EnqueuedOperation, read
from worker.testing.outbox import seat_accounts

__all__ = ["Ringonce"]

PATIENCE: Final = 30.0
"""Seconds: what is not delivered by then never will be."""


class Ringonce:
    """One test's outbox and its API.

    What an assertion is told (endpoint, members of the payload, ``account``, ``lane``, ``idempotency_key``,
    ``priority``, ``state``, ``on_done``) is compared; all else may be anything. *among* has it look at these
    operations in the place of all that are committed.
    """

    def __init__(self, url: str, sandbox: Sandbox) -> None:
        self.url = url
        """Of the test's database: what the app connects to."""
        self.sandbox = sandbox
        """The API: ``configure(faults=...)``, ``script(["drop", "500"])``, ``ledger``, ``requests``."""

    def drain(self, *, within: float = PATIENCE) -> Counts:
        """Deliver to the sandbox, before this returns, all that is committed and due, with its retries.

        What is due later than in six seconds stays queued. Attempts follow each other at once here, and a
        call that hangs is over in two seconds; only a 429 or 503 takes its time, as it does in production.

        Raises:
            TimeoutError: there is still something due after *within* seconds.
        """
        return deliver(self.url, seat_accounts(self.url, self.sandbox), within=within)

    async def adrain(self, *, within: float = PATIENCE) -> Counts:
        """``drain``, while the loop of the test goes on."""
        return await asyncio.to_thread(self.drain, within=within)

    def enqueued(
        self,
        endpoint: str | None = None,
        payload: Mapping[str, Any] | None = None,
        *,
        conn: Synchronous | None = None,
        **named: Unpack[Named],
    ) -> list[EnqueuedOperation]:
        """The operations like this, oldest first, whatever has become of them.

        Committed ones; through *conn*, anything that ``enqueue`` takes, also those of the transaction that is
        open there.
        """
        operations = self._committed() if conn is None else read(runner(conn, "enqueued")(READ, {}))
        return Expected(endpoint, payload, named).among(operations)

    async def aenqueued(
        self,
        endpoint: str | None = None,
        payload: Mapping[str, Any] | None = None,
        *,
        conn: Asynchronous,
        **named: Unpack[Named],
    ) -> list[EnqueuedOperation]:
        """``enqueued`` through what ``aenqueue`` takes."""
        operations = read(await arunner(conn, "aenqueued")(READ, {}))
        return Expected(endpoint, payload, named).among(operations)

    def assert_enqueued(
        self,
        endpoint: str,
        payload: Mapping[str, Any] | None = None,
        *,
        times: int = 1,
        among: Sequence[EnqueuedOperation] | None = None,
        **named: Unpack[Named],
    ) -> list[EnqueuedOperation]:
        """Fail unless exactly *times* operations are like this; return them, oldest first."""
        __tracebackhide__ = True
        operations = self._committed() if among is None else among
        expected = Expected(endpoint, payload, named)
        found = expected.among(operations)
        if len(found) != times:
            told = _list(found) if found else expected.compare(operations)
            raise AssertionError(
                f"expected {times} of this, found {len(found)} among {len(operations)} operations:\n"
                f"{expected.describe()}\n{told}"
            )
        return found

    def assert_nothing_enqueued(
        self,
        endpoint: str | None = None,
        payload: Mapping[str, Any] | None = None,
        *,
        among: Sequence[EnqueuedOperation] | None = None,
        **named: Unpack[Named],
    ) -> None:
        """Fail if any operation is like this; with no argument: if there is any."""
        __tracebackhide__ = True
        expected = Expected(endpoint, payload, named)
        if found := expected.among(self._committed() if among is None else among):
            raise AssertionError(
                f"expected none of this, found {len(found)}:\n{expected.describe()}\n{_list(found)}"
            )

    def assert_sent(
        self,
        endpoint: str,
        payload: Mapping[str, Any] | None = None,
        *,
        times: int = 1,
        **named: Unpack[Named],
    ) -> list[EnqueuedOperation]:
        """Fail unless exactly *times* operations are like this, and the API executed each of them once."""
        __tracebackhide__ = True
        found = self.assert_enqueued(endpoint, payload, times=times, **named)
        told = [self._sending(each) for each in found if len(self._executions(each)) != 1]
        if told:
            raise AssertionError("expected to have been executed once:\n" + "\n".join(told))
        return found

    def _committed(self) -> list[EnqueuedOperation]:
        with psycopg.connect(self.url, autocommit=True) as conn:
            return read(runner(conn, "enqueued")(READ, {}))

    def _executions(self, operation: EnqueuedOperation) -> list[Execution]:
        return self.sandbox.executions(operation.idempotency_key)

    def _sending(self, operation: EnqueuedOperation) -> str:
        key = operation.idempotency_key
        requests = [
            f"{each.outcome} ({each.fault or 'no fault'})"
            for each in self.sandbox.requests
            if each.key == key
        ]
        return (
            f"    {operation}\n    executed {len(self._executions(operation))} times; "
            f"requests: {', '.join(requests) or 'none (has ringonce.drain() been called?)'}; "
            f"last error: {operation.last_error or 'none'}"
        )


def _list(operations: Sequence[EnqueuedOperation]) -> str:
    return "\n".join(f"    {each}" for each in operations)
