"""The bell's line to the broker: rings go out over it, and it tells how many were not answered yet.

Made when needed and, when it breaks, thrown away with all that kombu knows of it: kombu's own retrying
sleeps for seconds, or for ever, in a thread that has a better idea.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from celery import Celery
from kombu import Connection, Producer
from kombu.exceptions import KombuError

from worker.plain import one_line

__all__ = ["QUEUE", "BrokerAway", "Rope"]

T = TypeVar("T")
Channel = Any
"""A channel of whichever transport; the stubs know what they have in common, which is not enough."""

QUEUE: Final = "ringonce"
"""The queue of rings, named so that a broker shared with other applications is not disturbed."""
REST: Final = 5.0
"""Seconds for which a broker that failed is left alone: to try one that is cut off costs as many."""


class BrokerAway(Exception):
    """The broker does not answer."""


class Rope:
    """A connection to the broker of *app*, for one thread.

    After the broker failed it is left alone for a few seconds: until then nothing is tried.
    """

    def __init__(self, app: Celery[Any], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock
        self._rests_until = -math.inf
        self._trouble = ""
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self.is_shared = app.connection_for_write().transport.driver_type != "memory"
        """Whether other nodes hear these rings too."""

    def ring(self, task: str, *, expires: float) -> None:
        """Send one wake-up for *task*, void after *expires* seconds by the receiver's clock.

        Raises:
            BrokerAway: it was not taken, as far as is known.
        """

        def ring(channel: Channel) -> None:
            self._app.send_task(task, queue=QUEUE, expires=expires, producer=Producer(channel), retry=False)

        self._say(ring)

    def unanswered(self) -> int:
        """Rings that still lie in the queue.

        Raises:
            BrokerAway: there is nobody to ask.
        """
        return self._say(self._count)

    def drop(self) -> None:
        """Throw the connection away; the next word makes a new one."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            connection.collect(socket_timeout=1)

    def _count(self, channel: Channel) -> int:
        # Declared anew rather than looked up: to Redis an empty queue is no queue.
        queue = self._app.amqp.queues[QUEUE]
        declared = channel.queue_declare(
            queue=queue.name,
            durable=queue.durable,
            auto_delete=queue.auto_delete,
            arguments=queue.queue_arguments or {},
        )
        return int(declared.message_count)

    def _say(self, words: Callable[[Channel], T]) -> T:
        if self._clock() < self._rests_until:
            raise BrokerAway(self._trouble)
        kept = self._channel is not None
        try:
            return words(self._channel or self._connect())
        except self._broken() as error:
            self.drop()
            if not kept:
                self._rests_until = self._clock() + REST
                self._trouble = one_line(str(error)) or type(error).__name__
                raise BrokerAway(self._trouble) from error
        return self._say(words)  # an idle line may have been cut long ago: once more, over a new one

    def _connect(self) -> Channel:
        self._connection = self._app.connection_for_write()
        self._connection.ensure_connection(max_retries=0)
        self._channel = self._connection.channel()
        return self._channel

    def _broken(self) -> tuple[type[BaseException], ...]:
        if self._connection is None:
            return (KombuError, OSError)
        return (KombuError, OSError, *self._connection.connection_errors, *self._connection.channel_errors)
