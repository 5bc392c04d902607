"""An app that goes on enqueueing, whatever happens to workers and schema meanwhile."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psycopg

from tests.acceptance.delivering import enqueue

__all__ = ["Producer"]


class Producer:
    """Commits *batch* operations every *seconds*, in a thread and on a connection of its own, until left.

    An error of it is raised when it is left: nothing that happens may be seen by an app.
    """

    def __init__(self, url: str, *, batch: int, seconds: float) -> None:
        self.count = 0
        """How many operations it has committed."""
        self._url, self._batch, self._seconds = url, batch, seconds
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
                    enqueue(conn, self._batch)
                    self.count += self._batch
        except psycopg.Error as error:
            self._failed.append(error)
