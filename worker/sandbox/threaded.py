"""The sandbox in a thread of the process that uses it: for tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import fields
from types import TracebackType
from typing import Self, TypeVar

from worker.sandbox.api import Api
from worker.sandbox.faults import Planned
from worker.sandbox.ledger import Counts, Execution, Repeat, Request
from worker.sandbox.server import File, SandboxServer
from worker.sandbox.switches import SandboxSettings
from worker.sandbox.webhooks import Told

Result = TypeVar("Result")

PATIENCE_SECONDS = 10.0
"""A thread that has not started, answered or ended by then never will."""


class Sandbox:
    """The sandbox with an event loop of its own, in a thread of its own.

        with Sandbox() as api:
            httpx.post(api.url + "/voice/v1/call", auth=("sandbox", "sandbox"), json={...})
            assert api.executed_twice() == []

    Every method may be called from any thread, while it runs and after it has ended.

    Raises:
        OSError: on entering: the port is taken, or a file of the certificate is not readable.
    """

    def __init__(
        self,
        settings: SandboxSettings | None = None,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        certfile: File | None = None,
        keyfile: File | None = None,
    ) -> None:
        """Port 0 takes a free one. *certfile* and *keyfile* (PEM) switch to https."""
        self._first = settings or SandboxSettings()
        self._api = Api(self._first)
        self._where = (host, port, certfile, keyfile)

    def __enter__(self) -> Self:
        """Start; connections are accepted when this returns."""
        self._server = SandboxServer(self._api, *self._where)
        self._runner = asyncio.Runner(loop_factory=self._server.config.get_loop_factory())
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self._thread.start()
        if not self._server.listening.wait(PATIENCE_SECONDS):
            self._ended.result(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop. Whoever still waits for an answer gets none."""
        self._server.should_exit = True
        self._ended.result(PATIENCE_SECONDS)
        self._thread.join()

    @property
    def url(self) -> str:
        """Where the API is, without a slash at the end."""
        return self._server.url

    @property
    def port(self) -> int:
        """The port that it is reached at."""
        return self._server.port

    @property
    def settings(self) -> SandboxSettings:
        """The switches as they stand."""
        return self._api.settings

    @property
    def ledger(self) -> list[Execution]:
        """Every execution so far, oldest first."""
        return self.executions()

    @property
    def requests(self) -> list[Request]:
        """The latest requests, oldest first."""
        return self._on_loop(self._api.ledger.requests)

    def executions(self, key: str | None = None, app_id: str | None = None) -> list[Execution]:
        """The executions under *key* (None: all) of *app_id* (None: any), oldest first."""
        return self._on_loop(lambda: self._api.ledger.executions(key, app_id))

    def executed_twice(self) -> list[Repeat]:
        """Every key, of one APP ID, that was executed more than once."""
        return self._on_loop(self._api.ledger.executed_twice)

    @property
    def told(self) -> list[Told]:
        """What the receiver was to be told so far, with what was lost on its way."""
        return self._on_loop(lambda: list(self._api.webhooks.told))

    @property
    def telling_count(self) -> int:
        """How many webhooks, and executions, are still being told of."""
        return self._on_loop(lambda: self._api.webhooks.pending_count)

    def counts(self) -> Counts:
        """Totals since the last reset, and what is held now."""
        return self._on_loop(self._api.counts)

    def configure(self, **changes: object) -> None:
        """Switch while it runs, by the names of ``SandboxSettings``.

        Raises:
            SettingsError: nothing was changed.
        """
        self._on_loop(lambda: self._api.configure(changes))

    def script(
        self, steps: Iterable[Planned], *, key: str | None = None, endpoint: str | None = None
    ) -> None:
        """Append faults, one for each of the next requests with this key, or to this endpoint, or at all.

        Raises:
            SettingsError: nothing was added.
        """
        self._on_loop(lambda: self._api.script(steps, key=key, endpoint=endpoint))

    def refuse(self, seconds: float) -> None:
        """Refuse connections, from when this returns, for *seconds*."""
        self._on_loop(lambda: self._server.refuse(seconds))

    def admit(self) -> None:
        """Accept connections again, from when this returns."""
        self._on_loop(self._server.admit)
        self._server.listening.wait(PATIENCE_SECONDS)

    def advance(self, seconds: float) -> None:
        """Put the clock forward, for keys to age without waiting."""
        self._on_loop(lambda: self._api.clock.advance(seconds))

    def hurry(self) -> None:
        """End every latency, and every pause between two bytes, that is being waited for now."""
        self._on_loop(self._api.hurry)

    def reset(self) -> None:
        """Forget ledger, keys and scripts, set the clock right, draw from the beginning; settings stay."""
        self._on_loop(self._api.reset)

    def renew(self) -> None:
        """Be as at the start: every switch set back, no script, nothing done; connections are accepted."""
        self.admit()
        self.reset()
        self.configure(**{each.name: getattr(self._first, each.name) for each in fields(self._first)})

    def _run(self) -> None:
        try:
            with self._runner:
                self._runner.run(self._server.serve())
        except BaseException as crash:  # noqa: BLE001 - __exit__ raises it, in the thread that cares.
            self._ended.set_exception(crash)
        else:
            self._ended.set_result(None)

    def _on_loop(self, ask: Callable[[], Result]) -> Result:
        if self._ended.done():
            return ask()
        answer: Future[Result] = Future()

        def reply() -> None:
            try:
                answer.set_result(ask())
            except Exception as problem:  # noqa: BLE001 - Raised where it was asked for.
                answer.set_exception(problem)

        self._runner.get_loop().call_soon_threadsafe(reply)
        return answer.result(PATIENCE_SECONDS)
