"""Lines to a broker. The bell's is its rope: rings go out over it, and it tells how many nobody answered yet.

A line is made when needed and, when it breaks, thrown away with all that kombu knows of it: kombu's own
retrying sleeps for seconds, or for ever, in a thread that has a better idea.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from celery import Celery
from kombu import Connection, Producer
from kombu.exceptions import KombuError

from worker.plain import one_line
from worker.settings import OWN_QUEUE

__all__ = ["QUEUE", "BrokerAway", "BrokerRefused", "Line", "Rope", "is_refusal", "place", "transport_options"]

T = TypeVar("T")
Channel = Any
"""A channel of whichever transport; the stubs know what they have in common, which is not enough."""

QUEUE: Final = OWN_QUEUE
"""The queue of rings, named so that a broker shared with other applications is not disturbed."""
REST: Final = 5.0
"""Seconds for which a broker that failed is left alone: to try one that is cut off costs as many."""
REDIS_OPTIONS: Final = {"socket_timeout": 10, "socket_connect_timeout": 5, "socket_keepalive": True}
RABBITMQ_OPTIONS: Final = {"read_timeout": 10, "write_timeout": 10, "confirm_publish": True}
"""Without them a broker that is cut off, not down, holds a thread for as long as TCP likes, or takes messages
that it never gets."""


def transport_options(broker: str) -> dict[str, Any]:
    """What kombu is told of the broker at this URL."""
    if broker.startswith("redis"):
        return REDIS_OPTIONS
    return {} if broker.startswith("memory") else RABBITMQ_OPTIONS


REFUSALS: Final = frozenset(
    {
        *("AccessRefused", "NotAllowed", "NotFound", "PreconditionFailed"),  # RabbitMQ's
        *(
            "AuthenticationError",
            "AuthenticationWrongNumberOfArgsError",
            "NoPermissionError",
            "ResponseError",
        ),
    }
)
"""What a broker says that is there, and has something against who comes. By name: redis may not be installed.
Of ResponseError only itself; what Redis says while it loads or fails over has names of its own."""


def place(broker: str) -> str:
    """Where the broker at this URL is, without whoever comes there and as whom."""
    parts = [urlsplit(url) for url in broker.split(";")]
    return ";".join(f"{each.scheme}://{each.netloc.rpartition('@')[2]}" for each in parts)


def is_refusal(error: BaseException | None) -> bool:
    """Whether a broker that answered was behind *error*, which mends less often by itself."""
    while error is not None:
        if type(error).__name__ in REFUSALS:
            return True
        error = error.__cause__
    return False


class BrokerAway(Exception):
    """The broker does not answer."""


class BrokerRefused(BrokerAway):
    """The broker answers, and does not let us in, or not do what we came for."""


class Line:
    """A connection to a broker, for one thread.

    After the broker failed it is left alone for a few seconds: until then nothing is tried.
    """

    def __init__(
        self, dial: Callable[[], Connection], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """A line that *dial* makes; nothing is connected yet."""
        self._dial = dial
        self._clock = clock
        self._rests_until = -math.inf
        self._trouble = ""
        self._connection: Connection | None = None
        self._channel: Channel | None = None

    @property
    def rests(self) -> bool:
        """Whether the broker is left alone just now."""
        return self._clock() < self._rests_until

    def say(self, words: Callable[[Channel], T]) -> T:
        """Say *words* to the broker; twice, if the line that was there is broken.

        Raises:
            BrokerAway: they were not taken, as far as is known.
        """
        if self.rests:
            raise BrokerAway(self._trouble)
        kept = self._channel is not None
        try:
            return words(self._channel or self._connect())
        except self._broken() as error:
            self.drop()
            if not kept:
                self._rests_until = self._clock() + REST
                self._trouble = one_line(str(error)) or type(error).__name__
                trouble = BrokerRefused if is_refusal(error) else BrokerAway
                raise trouble(self._trouble) from error
        return self.say(words)  # an idle line may have been cut long ago: once more, over a new one

    def drop(self) -> None:
        """Throw the connection away; the next word makes a new one."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            connection.collect(socket_timeout=1)

    def _connect(self) -> Channel:
        self._connection = self._dial()
        self._connection.ensure_connection(max_retries=0)
        self._channel = self._connection.channel()
        return self._channel

    def _broken(self) -> tuple[type[BaseException], ...]:
        if self._connection is None:
            return (KombuError, OSError)
        return (KombuError, OSError, *self._connection.connection_errors, *self._connection.channel_errors)


class Rope(Line):
    """The line from a bell to the broker of its worker's *app*."""

    def __init__(self, app: Celery[Any], *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(app.connection_for_write, clock=clock)
        self._app = app
        self.is_shared = app.connection_for_write().transport.driver_type != "memory"
        """Whether other nodes hear these rings too."""

    def ring(self, task: str, *, expires: float) -> None:
        """Send one wake-up for *task*, void after *expires* seconds by the receiver's clock.

        Raises:
            BrokerAway: it was not taken, as far as is known.
        """

        def ring(channel: Channel) -> None:
            self._app.send_task(task, queue=QUEUE, expires=expires, producer=Producer(channel), retry=False)

        self.say(ring)

    def unanswered(self) -> int:
        """Rings that still lie in the queue.

        Raises:
            BrokerAway: there is nobody to ask.
        """
        return self.say(self._count)

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
