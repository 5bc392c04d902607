"""Running the sandbox as a process of its own; ``threaded`` runs it in a thread, for tests."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from os import PathLike
from types import FrameType

import uvicorn

from worker.sandbox.api import Api
from worker.sandbox.app import SandboxApp
from worker.sandbox.switches import SandboxSettings
from worker.sandbox.wire import WireProtocol

File = str | PathLike[str]

Address = tuple[object, ...]
"""Of a socket: host and port, and for IPv6 two more."""


class SandboxServer(uvicorn.Server):
    """uvicorn, with a listening socket that can be closed for a while, and an end that waits for nobody."""

    def __init__(
        self,
        api: Api,
        host: str,
        port: int,
        certfile: File | None,
        keyfile: File | None,
        *,
        on_start: Callable[[str], None] | None = None,
    ) -> None:
        """Bind the port (0: a free one), without listening yet. Once it listens, *on_start* is told the URL.

        Raises:
            OSError: the port is taken, or a file of the certificate is not readable.
        """
        super().__init__(
            uvicorn.Config(
                SandboxApp(api, self.refuse),
                http=WireProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=75,  # Closing by surprise is a fault, and those are asked for.
                timeout_graceful_shutdown=2,
                ssl_certfile=certfile,
                ssl_keyfile=keyfile,
            )
        )
        self.config.load()
        self.api = api
        self.listening = threading.Event()
        self.servers = []
        self._on_start = on_start
        self._bound = bind_name(host, port)
        self._reopening: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self._address: Address = self._bound.getsockname()
        self.url = f"{'https' if certfile else 'http'}://{_shown(host)}:{self.port}"

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(str(self._address[1]))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's
        """Listen, in a way that can be undone."""
        await self._listen()
        self.started = True
        if self._on_start is not None:
            self._on_start(self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what is being waited for, and cut whoever is still connected."""
        if self._reopening is not None:
            self._reopening.cancel()
        if self._opening is not None:
            await self._opening
        if not self.servers:
            self._bound.close()
        self.api.hurry()
        await self.api.webhooks.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """End on SIGINT and SIGTERM; uvicorn would raise them once more afterwards."""
        self.should_exit = True

    def refuse(self, seconds: float) -> None:
        """Refuse connections for *seconds* from now, and let go of those that are idle.

        The listening socket is closed, and the port bound anew at once without listening: so the kernel
        refuses, and nobody else, nor a client's own outgoing socket, can be given the port meanwhile.
        Whoever is just connecting, and has not been accepted yet, is reset by the kernel.
        """
        if self._reopening is not None:
            self._reopening.cancel()
        self._reopening = asyncio.get_running_loop().call_later(seconds, self.admit)
        self._deafen()
        for connection in list(self.server_state.connections):
            connection.shutdown()

    def admit(self) -> None:
        """Accept connections again, if they are being refused."""
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
            self._opening = asyncio.get_running_loop().create_task(self._listen())

    def _deafen(self) -> None:
        self.listening.clear()
        for listener in self.servers:
            listener.close()
            self._bound = bind(self._bound.family, self._address)
        self.servers = []

    async def _listen(self) -> None:
        loop, config = asyncio.get_running_loop(), self.config
        listener = await loop.create_server(
            self._protocol, sock=self._bound, ssl=config.ssl, backlog=config.backlog
        )
        self.servers = [listener]
        self.listening.set()
        if self._reopening is not None:  # Refused again, meanwhile.
            self._deafen()

    def _protocol(self) -> WireProtocol:
        return WireProtocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    settings: SandboxSettings | None = None,
    certfile: File | None = None,
    keyfile: File | None = None,
    *,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Run the sandbox in this thread until SIGINT or SIGTERM, then return.

    *on_start* is told the URL as soon as connections are accepted; port 0 takes a free one.

    Raises:
        OSError: the port is taken, or a file of the certificate is not readable.
    """
    SandboxServer(Api(settings or SandboxSettings()), host, port, certfile, keyfile, on_start=on_start).run()


def bind_name(host: str, port: int) -> socket.socket:
    """Bind a socket to the first address of *host*, without listening yet."""
    try:
        first = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except UnicodeError as error:  # a name that the DNS cannot carry
        raise OSError("that is no name of a host") from error
    return bind(first[0], first[4])


def bind(family: int, address: Address) -> socket.socket:
    """Bind a socket to *address*, also while connections of a former listener live on."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
