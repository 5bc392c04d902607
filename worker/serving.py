"""An ASGI app as a process of its own, until it is told to end: the admin page, the receiver of webhooks."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from types import FrameType
from typing import Any

import uvicorn

__all__ = ["Place", "serve_app"]

File = str | PathLike[str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen, and with which certificate."""

    host: str
    port: int
    """0: a free one."""
    certfile: File | None = None
    """PEM; switches to https."""
    keyfile: File | None = None
    """None: the certificate's file holds it."""


def serve_app(
    app: Callable[..., Any], place: Place, *, grace_seconds: int, on_start: Callable[[str], None]
) -> None:
    """Serve *app* at *place*, in this thread, until SIGINT or SIGTERM, and then what is being answered.

    *on_start* is told the address as soon as connections are accepted. Nothing is logged: paths may hold
    secrets. No header tells who the peer is.

    Raises:
        OSError: the port is taken, or a file of the certificate is not readable.
    """
    config = uvicorn.Config(
        app,
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=grace_seconds,
        ssl_certfile=place.certfile,
        ssl_keyfile=place.keyfile,
    )
    config.load()
    with _bound(place.host, place.port) as listener:
        shown = f"[{place.host}]" if ":" in place.host else place.host
        address = f"{'https' if place.certfile else 'http'}://{shown}:{listener.getsockname()[1]}"
        _Server(config, lambda: on_start(address)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, that says when it listens and ends in its own time."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """End on SIGINT and SIGTERM; uvicorn would raise them once more afterwards."""
        self.should_exit = True


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except UnicodeError as error:  # a name that the DNS cannot carry
        raise OSError("that is no name of a host") from error
    return socket.create_server(address[:2], family=family)
