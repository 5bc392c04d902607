"""TCP proxies whose connections can be refused, reset, delayed, or left half open.

What a half-open connection has swallowed is gone for good, and so is the connection: it is reset when the
blackhole ends. In the world keepalive would notice after half a minute; through a proxy, which acknowledges
whatever it is sent, it cannot. Nothing is ever delivered late, or an API would be busy with a request for
longer than it may.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from worker.sandbox.server import bind

LINGER_ZERO = struct.pack("ii", 1, 0)
"""A socket that is closed under this sends a reset."""
PATIENCE = 10.0
HOST = "127.0.0.1"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """One connection, from a client through the proxy."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]
        self.swallowed = False
        """It fell into the blackhole: nothing is forwarded any more, not even its end."""

    def reset(self) -> None:
        for writer in self.writers:
            connection = writer.get_extra_info("socket")
            with suppress(OSError):  # closed already
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            writer.transport.abort()


class Proxy:
    """One proxy; every method may be called from any thread, and has taken effect when it returns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._target = 0
        self._links: set[Link] = set()
        self._bound = bind(socket.AF_INET, (HOST, 0))
        self.port = int(self._bound.getsockname()[1])
        self._server: asyncio.Server | None = None
        self._blackhole = False
        self._delay = 0.0

    def aim(self, port: int) -> None:
        """Connect to *port* from now on."""
        self._target = port

    def admit(self) -> None:
        """Accept connections."""
        self._do(self._listen())

    def refuse(self) -> None:
        """Reset every connection, and have the kernel refuse new ones."""
        self._do(self._deafen())

    def close(self) -> None:
        """Give its port back."""
        self.refuse()
        self._bound.close()

    def reset(self) -> None:
        """Reset every connection."""
        self._call(self._reset)

    def swallow(self) -> None:
        """Forward nothing more, of connections that are there and that come, without closing any."""
        self._call(self._open_blackhole)

    def heal(self) -> None:
        """Forward again; what was swallowed is reset."""
        self._call(self._close_blackhole)

    def delay(self, seconds: float) -> None:
        """Hold every piece of what is sent for *seconds*, in each direction."""
        self._delay = seconds

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _call(self, work: Callable[[], None]) -> None:
        async def call() -> None:
            work()

        self._do(call())

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=self._bound)

    async def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._bound = bind(socket.AF_INET, (HOST, self.port))
        self._reset()

    def _reset(self) -> None:
        for link in list(self._links):
            link.reset()

    def _open_blackhole(self) -> None:
        self._blackhole = True
        for link in self._links:
            link.swallowed = True

    def _close_blackhole(self) -> None:
        self._blackhole = False
        for link in list(self._links):
            if link.swallowed:
                link.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(writer)
        link.swallowed = self._blackhole
        self._links.add(link)
        try:
            await self._join(link, reader, writer)
        except OSError:  # the target refuses, or somebody has hung up
            link.reset()
        finally:
            self._links.discard(link)
            for each in link.writers:
                each.close()

    async def _join(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
        link.writers.append(far_writer)
        pumps = [
            asyncio.create_task(self._pump(link, reader, far_writer)),
            asyncio.create_task(self._pump(link, far_reader, writer)),
        ]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            if self._delay:
                await asyncio.sleep(self._delay)
            if not link.swallowed:
                writer.write(piece)
                await writer.drain()
        if not link.swallowed:
            writer.close()


class Proxies:
    """A thread with the loop that all proxies of a run live in."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxies", daemon=True)
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self._proxies:
            proxy.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)

    def to(self, port: int) -> Proxy:
        """A proxy to *port* of this machine, that accepts connections."""
        proxy = Proxy(self._loop)
        proxy.aim(port)
        proxy.admit()
        self._proxies.append(proxy)
        return proxy

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
