"""kombu's transports, where Celery needs other ones for what wake-ups are: worthless, and soon sent again."""

from __future__ import annotations

from typing import Final

from kombu import transport

__all__ = ["install"]

OURS: Final = {
    "memory": f"{__name__}.memory:Transport",
    "redis": f"{__name__}.redis:Transport",
    "rediss": f"{__name__}.redis:Transport",
    "amqp": f"{__name__}.rabbitmq:Transport",
    "pyamqp": f"{__name__}.rabbitmq:Transport",
    "amqps": f"{__name__}.rabbitmq:SSLTransport",
}


def install() -> None:
    """Make the schemes of these brokers mean our transports, in this process and in those it forks."""
    transport.TRANSPORT_ALIASES.update(OURS)
