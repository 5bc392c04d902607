"""kombu's Redis transport, less its attempts to hand back what it can no longer hand back.

When Redis hangs up while a task is running that is acknowledged late (a drain: always), kombu wants to put
its message back through a connection that has just lost its parameters. That raises an AttributeError, which
Celery takes for unrecoverable: the worker ends. So would the acknowledgement when the task is done, after
Celery has connected anew. Wake-ups need neither: whatever is still due is rung for again.

Decisions:
    2026-11-24: seen with Celery 5.7.0 and kombu 5.7.0, on both pools, each time that Redis was killed under a
    running drain.
"""

from __future__ import annotations

from kombu.transport import redis

__all__ = ["Channel", "Transport"]


class Channel(redis.Channel):
    """kombu's channel, which leaves alone what was delivered over a connection that is gone."""

    do_restore = False

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Acknowledge a message, if there still is somebody to tell."""
        if not self.closed:
            super().basic_ack(delivery_tag, multiple)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Reject a message, if there still is somebody to tell."""
        if not self.closed:
            super().basic_reject(delivery_tag, requeue)


class Transport(redis.Transport):
    """kombu's Redis transport with these channels."""

    Channel = Channel
