"""kombu's RabbitMQ transport, to which a broker that lets nobody in is one that is away.

Nor does it acknowledge what was delivered over a connection that is gone: Celery would call each of those
attempts critical, with a traceback, while rings need no acknowledgement at all (``redis`` does the same).

RabbitMQ that was lost and comes back empty knows neither the user nor the virtual host. kombu takes that for
final, and Celery ends the worker over it; a worker started in its place would be refused as well, and nobody
would deliver. With this one Celery tries again every now and then, as if nobody listened there, and the bell
drains by itself until somebody has put RabbitMQ right. A worker's start is another matter: ``fleet`` refuses
what was never right.

Decisions:
    2026-11-29: seen with Celery 5.7.0, kombu 5.7.0 and amqp 5.4.2.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import AccessRefused, NotAllowed
from kombu.transport import pyamqp

__all__ = ["Channel", "Connection", "SSLTransport", "Transport"]

NOT_LET_IN = (AccessRefused, NotAllowed)
"""An unknown user or password; a virtual host that is not there, or not for this user."""


class Channel(pyamqp.Channel):
    """kombu's channel, which leaves alone what was delivered over a connection that is gone."""

    def basic_ack(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - amqp's, passed on
        """Acknowledge a message, if there still is somebody to tell."""
        if self.connection is not None:
            super().basic_ack(*args, **kwargs)

    def basic_reject(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - amqp's, passed on
        """Reject a message, if there still is somebody to tell."""
        if self.connection is not None:
            super().basic_reject(*args, **kwargs)


class Connection(pyamqp.Connection):
    """kombu's connection with these channels."""

    Channel = Channel


class Transport(pyamqp.Transport):
    """kombu's RabbitMQ transport, which is patient."""

    Connection = Connection
    recoverable_connection_errors = (*pyamqp.Transport.recoverable_connection_errors, *NOT_LET_IN)


class SSLTransport(pyamqp.SSLTransport):
    """The same over TLS."""

    Connection = Connection
    recoverable_connection_errors = (*pyamqp.SSLTransport.recoverable_connection_errors, *NOT_LET_IN)
