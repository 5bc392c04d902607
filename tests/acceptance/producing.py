"""An app that goes on enqueueing, whatever happens to workers and schema meanwhile."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psycopg

from tests.acceptance.delivering import enqueue, states

__all__ = ["Producer"]


class Producer:
    """Commits *batch* operations every *seconds*, in a thread and on a connection of its own, until left.

    And whatever is missing of a *backlog* that waits.

    An error of it is raised when it is left: nothing that happens may be seen by an app.
    """

    def __init__(self, url: str, *, batch: int, seconds: float, backlog: int = 0) -> None:
        self.count = 0
        """How many operations it has committed."""
        self._url, self._batch, self._seconds, self._backlog = url, batch, seconds, backlog
        self._over = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="producer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._failed and error is None:
            raise self._failed[0]

    def stop(self) -> None:
        """Have it end what it is at, and wait for that."""
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True, application_name="producer") as conn:
                while not self._over.wait(self._seconds):
                    missing = self._backlog and max(self._backlog - states(conn).get("queued", 0), 0)
                    enqueue(conn, self._batch + missing)
                    self.count += self._batch + missing
        except psycopg.Error as error:
            self._failed.append(error)
