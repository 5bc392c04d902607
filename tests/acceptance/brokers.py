"""The three brokers, each in a form that a test may kill."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol
from urllib.parse import urlsplit

import kombu
import kombu.exceptions
import pytest

from tests.acceptance.workers import Redis
from tests.chaos.proxies import Proxies, Proxy
from tests.services import require_rabbitmq
from worker.rope import QUEUE


class Broker(Protocol):
    """What workers are told of, and what a test does to it."""

    url: str
    is_shared: bool
    """Whether it is a thing of its own, which can be lost."""

    def kill(self) -> None:
        """Take it away from under its workers."""

    def start(self) -> None:
        """Let there be one again, at the same place."""


class InEachNode:
    """``memory://``: killed with each node, and with nothing else."""

    url = "memory://"
    is_shared = False

    def kill(self) -> None:
        """Nothing: there is none beside the nodes."""

    start = kill


class OwnRedis(Redis):
    """A Redis that is really killed, and comes back with nothing in it."""

    is_shared = True


class RabbitMQ:
    """The machine's RabbitMQ, which must not be killed: its connections are, and new ones are refused."""

    is_shared = True

    def __init__(self, proxy: Proxy, port: int) -> None:
        self.url = f"amqp://guest:guest@127.0.0.1:{proxy.port}//"
        self._proxy, self._port = proxy, port

    def kill(self) -> None:
        self._proxy.refuse()

    def start(self) -> None:
        self.aim(self._port)

    def aim(self, port: int) -> None:
        """Have whoever listens on *port* answer in its place, to those who connect anew."""
        self._proxy.refuse()
        self._proxy.aim(port)
        self._proxy.admit()


@pytest.fixture(params=["memory", "redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Each of them in turn, or those that a test names (``indirect``)."""
    if request.param == "memory":
        yield InEachNode()
    elif request.param == "redis":
        server = OwnRedis()
        server.start()
        yield server
        server.kill()
    else:
        with behind_a_proxy() as rabbitmq:
            yield rabbitmq


@contextmanager
def behind_a_proxy() -> Iterator[RabbitMQ]:
    url = require_rabbitmq()
    port = urlsplit(url).port or 5672
    with Proxies() as proxies:
        yield RabbitMQ(proxies.to(port), port)
    _tidy(url)


def _tidy(url: str) -> None:
    """Leave no queue behind in RabbitMQ, unless somebody else reads it."""
    with kombu.Connection(url) as connection, suppress(*connection.channel_errors):
        channel = connection.channel()
        if not channel.queue_declare(queue=QUEUE, passive=True).consumer_count:  # type: ignore[attr-defined]
            channel.queue_delete(QUEUE)  # type: ignore[attr-defined]


def method(number: tuple[int, int], arguments: bytes) -> bytes:
    """A frame of AMQP 0-9-1 with a method of the connection itself (channel 0)."""
    body = struct.pack(">HH", *number) + arguments
    return struct.pack(">BHI", 1, 0, len(body)) + body + b"\xce"


def long_string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


START = method((10, 10), b"\0\x09" + long_string(b"") + long_string(b"PLAIN") + long_string(b"en_US"))
TEXT = b"ACCESS_REFUSED - no such user any more"
CLOSE = method((10, 50), struct.pack(">HB", 403, len(TEXT)) + TEXT + b"\0\0\0\0")


class LetsNobodyIn(socketserver.StreamRequestHandler):
    """RabbitMQ, as far as it goes with somebody who is not let in."""

    server: TurningAway

    def handle(self) -> None:
        self.rfile.read(8)  # "AMQP" and a version
        self.wfile.write(START)
        head = self.rfile.read(7)  # of the answer, with user and password
        self.rfile.read(struct.unpack(">BHI", head)[2] + 1)
        self.server.turned_away.set()
        self.wfile.write(CLOSE)
        self.rfile.read()


class TurningAway(socketserver.ThreadingTCPServer):
    """A RabbitMQ that has lost its users: ``with`` runs it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), LetsNobodyIn)
        self.turned_away = threading.Event()
        """Set once somebody was."""
        threading.Thread(target=self.serve_forever, name="turning away", daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
