"""An app made as the real one is, whose tasks only tell the test that they run.

Told by lines of JSON in a pipe that all processes of the worker inherit: the test waits for a word, not for
some time, and the end of the file says that none of them is left. A drain cancels what is due, so that
nothing is due any more, and then holds its slot for STANDIN_HOLD seconds, or until the worker stops.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from celery import signals
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from worker import loops
from worker.doorbell import DRAIN, UPKEEP
from worker.fleet import QuietConsumer, build_app
from worker.settings import load_settings

Connection = AsyncConnection[TupleRow]

SERVE = """
with due as materialized (
    select id from outbox.operation where state = 'queued' and next_attempt_at <= clock_timestamp()
    for update skip locked
)
select outbox.cancel(id, 'served') from due
"""
HOLD = float(os.environ.get("STANDIN_HOLD", "0"))

settings = load_settings()
app = build_app(settings)
app.conf.worker_consumer = f"{__name__}:TellingConsumer"


def say(what: str, **more: object) -> None:
    line = json.dumps({"what": what, "pid": os.getpid(), "at": time.time(), **more})
    os.write(int(os.environ["STANDIN_PIPE"]), f"{line}\n".encode())


class TellingConsumer(QuietConsumer):
    """The consumer, which says when it has forgotten what no child has begun."""

    def on_close(self) -> None:
        super().on_close()
        say("consumer closed")


@signals.worker_ready.connect(weak=False)
def _ready(**_: object) -> None:
    say("ready")


@asynccontextmanager
async def open_house() -> AsyncIterator[Connection]:
    url = settings.database_url.get_secret_value()
    async with await AsyncConnection.connect(url, autocommit=True) as conn:
        say("house opened")
        yield conn
    say("house closed")


@app.task(name=DRAIN)
def drain() -> None:
    loops.run(open_house, _drain)


@app.task(name=UPKEEP)
def upkeep() -> None:
    loops.run(open_house, _upkeep)


async def _drain(conn: Connection, stop: asyncio.Event) -> None:
    served = await (await conn.execute(SERVE)).fetchall()
    say("drain", served=len(served))
    try:
        async with asyncio.timeout(HOLD):
            await stop.wait()
        say("drain felt the stop")
    except TimeoutError:
        say("drain ended")
    except asyncio.CancelledError:
        await conn.execute("select 1")  # the house is still open: it could record
        say("drain was cancelled")
        raise


async def _upkeep(_conn: Connection, _stop: asyncio.Event) -> None:
    say("upkeep")
