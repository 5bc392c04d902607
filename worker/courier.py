"""The courier: takes what apps are to be told to their broker, as messages that Celery's workers understand.

Blocking, for a thread of its own. A message was taken once the broker has said so: Redis by its reply,
RabbitMQ by its confirmation, and not before it has found the queue (``mandatory``).

Decisions:
    2026-11-28: no queue is declared. It is the app's, and to declare it with other arguments than the app
    does is an error to RabbitMQ. One that is not there yet keeps its messages in the outbox.
    2026-11-28: a message carries what tells the app which of its operations is meant, and nothing that it
    was sent or answered. The key stands in the body alone: Celery shows the short form of arguments to
    whoever monitors it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from celery import Celery
from kombu import Connection, Producer

from worker.complaint import complaint
from worker.operation import Announcement
from worker.rope import BrokerAway, Channel, Line, transport_options

__all__ = ["Courier", "Round"]

PERSISTENT: Final = 2
"""AMQP's number for a message that RabbitMQ writes to its disk."""


@dataclass(slots=True)
class Round:
    """What became of the announcements that a courier went out with."""

    sent: list[int] = field(default_factory=list)
    """Those that the broker has taken."""
    kept: list[int] = field(default_factory=list)
    """Those that it has not, as far as is known."""
    trouble: str = ""
    """Why not, if there are any."""


class Courier:
    """Brings tasks to one queue of one broker."""

    def __init__(self, url: str, queue: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is connected before there is something to bring."""
        self.taken_count = 0
        """How many messages the broker has taken so far; other threads may look."""
        self._queue = queue
        self._celery: Celery[Any] = Celery("ringonce on_done", set_as_current=False)
        self._line = Line(partial(Connection, url, transport_options=transport_options(url)), clock=clock)

    @property
    def rests(self) -> bool:
        """Whether the broker failed just now, and is left alone for a few seconds."""
        return self._line.rests

    def bring(self, announcements: Sequence[Announcement]) -> Round:
        """Send each of *announcements*; once the broker fails, the others are kept without a try.

        One that the broker refuses (its queue is full, say) keeps no other from being sent.
        """
        done = Round()
        for each in announcements:
            try:
                self._line.say(partial(self._send, each))
            except BrokerAway as error:
                done.kept = [other.id for other in announcements if other.id not in done.sent]
                done.trouble = str(error)
                break
            except Exception as error:  # noqa: BLE001 - py-amqp's MessageNacked is nothing more special
                done.kept.append(each.id)
                done.trouble = complaint(error)
            else:
                done.sent.append(each.id)
                self.taken_count += 1
        return done

    def drop(self) -> None:
        """Hang up."""
        self._line.drop()

    def _send(self, announcement: Announcement, channel: Channel) -> None:
        told = {"operation_id": announcement.operation_id, "state": announcement.state.value}
        message = self._celery.amqp.as_task_v2(
            str(announcement.task_id),
            announcement.task,
            kwargs={**told, "idempotency_key": announcement.idempotency_key},
            argsrepr="()",
            kwargsrepr=repr(told),
            origin="ringonce",
        )
        Producer(channel).publish(
            message.body,
            exchange="",
            routing_key=self._queue,
            mandatory=True,
            serializer="json",
            delivery_mode=PERSISTENT,
            headers=message.headers,
            **message.properties,
        )
