"""The admin page as a process of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from os import PathLike
from types import FrameType

import uvicorn

from worker.dashboard.app import build
from worker.dashboard.logins import Logins, Proxy

__all__ = ["serve"]

File = str | PathLike[str]


class DashboardServer(uvicorn.Server):
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


def serve(
    url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8090,
    proxy: Proxy | None = None,
    allowed_hosts: Collection[str] = (),
    certfile: File | None = None,
    keyfile: File | None = None,
    on_start: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the admin page of the outbox in the database *url*, in this thread, until SIGINT or SIGTERM.

    *on_start* is told its address as soon as connections are accepted; port 0 takes a free one. Browsers may
    call it by any address, by the name that *host* is, and by *allowed_hosts*.

    Raises:
        OSError: the port is taken, or a file of the certificate is not readable.
    """
    config = uvicorn.Config(
        build(Logins(url, proxy), (host, *allowed_hosts)),
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who the peer is decides whether a header is believed
        server_header=False,
        timeout_graceful_shutdown=2,
        ssl_certfile=certfile,
        ssl_keyfile=keyfile,
    )
    config.load()
    with _bound(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        address = f"{'https' if certfile else 'http'}://{shown}:{listener.getsockname()[1]}"
        server = DashboardServer(config, lambda: on_start(address))
        server.run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except UnicodeError as error:  # a name that the DNS cannot carry
        raise OSError("that is no name of a host") from error
    return socket.create_server(address[:2], family=family)
