"""Which address shows what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from worker.dashboard import deeds, operations, overview
from worker.dashboard.logins import Logins
from worker.dashboard.shield import Shield, Tokens
from worker.dashboard.visits import Visits, astray

__all__ = ["AT_ONCE", "build"]

AT_ONCE: Final = 10
"""Requests that are answered at once, and with them connections to Postgres; others wait."""


def build(logins: Logins, names: Collection[str]) -> ASGIApp:
    """The page, for people whom *logins* lets in, and who call it by an address or one of these *names*."""
    visits = Visits(logins, Tokens())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = AT_ONCE
        yield
        logins.close()

    operation, account = "/operations/{id}", "/accounts/{name}"
    return Starlette(
        routes=[
            Mount("/static", StaticFiles(packages=[("worker.dashboard", "static")])),
            Route("/", visits.to(overview.overview)),
            Route("/throughput", visits.to(overview.throughput)),
            Route("/operations", visits.to(operations.operations)),
            Route("/find", visits.to(operations.find), methods=["POST"]),
            Route("/unresolved", visits.to(operations.unresolved)),
            Route(operation, visits.to(operations.operation)),
            Route(f"{operation}/reveal", visits.to(operations.reveal, admin=True), methods=["POST"]),
            Route(operation + "/{deed}", visits.to(deeds.ask_of_operation, admin=True)),
            Route(operation + "/{deed}", visits.to(deeds.do_to_operation, admin=True), methods=["POST"]),
            Route(account + "/{deed}", visits.to(deeds.ask_of_account, admin=True)),
            Route(account + "/{deed}", visits.to(deeds.do_to_account, admin=True), methods=["POST"]),
        ],
        middleware=[Middleware(Shield, names)],
        exception_handlers={HTTPException: astray},
        lifespan=lifespan,
    )
