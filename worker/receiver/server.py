"""The receiver as a process of its own: ``/webhooks/{account}``, and ``/health`` for whoever starts it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from worker.receiver.app import SIGNATURE_HEADER, receiver

__all__ = ["PREFIX", "serve", "standing_alone"]

PREFIX: Final = "/webhooks"

File = str | PathLike[str]


class ReceiverServer(uvicorn.Server):
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


def standing_alone(app: Starlette) -> Starlette:
    """*app* under its prefix, which closes it at the end."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await app.state.close()

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(routes=[Route("/health", health), Mount(PREFIX, app)], lifespan=lifespan)


def serve(
    database_url: str,
    secrets_dir: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8091,
    signature_header: str = SIGNATURE_HEADER,
    only_signed: bool = False,
    certfile: File | None = None,
    keyfile: File | None = None,
    on_start: Callable[[str], None] = lambda _: None,
) -> None:
    """Take webhooks for the outbox in the database *database_url*, in this thread, until SIGINT or SIGTERM.

    *on_start* is told its address as soon as connections are accepted; port 0 takes a free one.

    Raises:
        OSError: the port is taken, or a file of the certificate is not readable.
    """
    app = receiver(database_url, secrets_dir, signature_header=signature_header, only_signed=only_signed)
    config = uvicorn.Config(
        standing_alone(app),
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,  # the path may hold a secret
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        ssl_certfile=certfile,
        ssl_keyfile=keyfile,
    )
    config.load()
    with _bound(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        address = f"{'https' if certfile else 'http'}://{shown}:{listener.getsockname()[1]}{PREFIX}"
        ReceiverServer(config, lambda: on_start(address)).run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except UnicodeError as error:  # a name that the DNS cannot carry
        raise OSError("that is no name of a host") from error
    return socket.create_server(address[:2], family=family)
