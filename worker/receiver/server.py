"""The receiver as a process of its own: ``/webhooks/{account}``, and ``/health`` for whoever starts it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from worker.receiver.app import SIGNATURE_HEADER, receiver
from worker.serving import Place, serve_app

__all__ = ["PREFIX", "serve", "standing_alone"]

PREFIX: Final = "/webhooks"


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
    place: Place,
    *,
    signature_header: str = SIGNATURE_HEADER,
    only_signed: bool = False,
    on_start: Callable[[str], None] = lambda _: None,
) -> None:
    """Take webhooks for the outbox in the database *database_url*, in this thread, until SIGINT or SIGTERM.

    *on_start* is told its address as soon as connections are accepted.

    Raises:
        OSError: the port is taken, or a file of the certificate is not readable.
    """
    app = receiver(database_url, secrets_dir, signature_header=signature_header, only_signed=only_signed)
    told = standing_alone(app)
    serve_app(told, place, grace_seconds=5, on_start=lambda address: on_start(f"{address}{PREFIX}"))
