"""How often a client waits for Postgres: a proxy that counts its requests for an answer.

libpq asks for one with the message Sync, or with a simple Query; what lies between is sent along with it.
(Frontend/backend protocol 3: a type byte, then a length that counts itself. A connection begins with a
message that has no type, or several: SSLRequest is answered with one byte, here by Postgres.)
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

HOST: Final = "127.0.0.1"
PIECE: Final = 1 << 16
ASKING: Final = frozenset({b"S", b"Q"})


class Counting:
    """The round trips of whoever connects by ``url``."""

    def __init__(self, target: str) -> None:
        """Stand before the server of *target*, which must name host and port."""
        self._target = conninfo_to_dict(target)
        self._loop = asyncio.new_event_loop()
        self._asked: Counter[bytes] = Counter()
        self.url = ""

    @property
    def taken(self) -> int:
        """Round trips until now, those of connecting aside."""
        return self._asked.total()

    @contextmanager
    def running(self) -> Iterator[Counting]:
        """Serve in a thread."""
        thread = threading.Thread(target=self._loop.run_forever, name="round trips", daemon=True)
        thread.start()
        listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, HOST, 0), self._loop)
        server = listening.result(10)
        port = server.sockets[0].getsockname()[1]
        here = {"host": HOST, "port": port, "sslmode": "disable", "gssencmode": "disable"}
        self.url = make_conninfo(**{name: value for name, value in self._target.items() if value} | here)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(_end(server), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(
            str(self._target["host"]), int(str(self._target["port"]))
        )
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await asyncio.gather(self._count(client, server), _copy(answers, back))
        finally:
            for end in (server, back):
                end.close()

    async def _count(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        length = await client.readexactly(4)
        server.write(length + await client.readexactly(int.from_bytes(length) - 4))
        while True:
            head = await client.readexactly(5)
            server.write(head + await client.readexactly(int.from_bytes(head[1:]) - 4))
            if head[:1] in ASKING:
                self._asked[head[:1]] += 1


async def _copy(answers: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    while piece := await answers.read(PIECE):
        back.write(piece)
    raise ConnectionResetError


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # for transports to close


@contextmanager
def counting(url: str) -> Iterator[Counting]:
    """Count the round trips that are made by this one's ``url``, which leads to where *url* does."""
    with Counting(url).running() as counter:
        yield counter
