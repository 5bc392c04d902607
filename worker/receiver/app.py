"""One webhook: who sends it, how much of it is read, what is answered.

    POST /{account}/{secret}     the secret in the path: all that a URL in a request can carry
    POST /{account}              the secret in X-Webhook-Secret, or as a bearer, or the body signed with it

200 once it is committed, also if it is known or cannot be read; 401 without the secret; 404 if there is no
such account; 408 if the body does not come whole; 413 over ``BODY_LIMIT``; 503 while Postgres is away or
refuses, or the file of secrets cannot be used, for its sender to come again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from worker.errors import SettingsError, StoreRefused, StoreUnavailable, UnknownAccount
from worker.observe import Event, emit
from worker.receiver.desk import Desk, Webhook
from worker.receiver.reports import read
from worker.receiver.senders import Senders

__all__ = ["BODY_LIMIT", "SECRET_HEADER", "SIGNATURE_HEADER", "receiver"]

BODY_LIMIT: Final = 256 << 10
"""Bytes: room for a report on each of a thousand recipients."""
BODY_SECONDS: Final = 10.0
"""How long a body may take to come."""
HEADERS_LIMIT: Final = 16 << 10
"""Bytes of headers that are kept."""
SECRET_HEADER: Final = "x-webhook-secret"  # noqa: S105 - a name
SIGNATURE_HEADER: Final = "x-webhook-signature"
NOT_KEPT: Final = frozenset({"authorization", "cookie", "proxy-authorization", SECRET_HEADER})
"""Headers whose values may hold a secret."""
REFUSED_SECONDS: Final = 60.0
"""How often it is said that senders were refused: whoever tries secrets must not fill the log."""


def receiver(
    database_url: str,
    secrets_dir: str | Path,
    *,
    signature_header: str = SIGNATURE_HEADER,
    only_signed: bool = False,
) -> Starlette:
    """The application, to be mounted or served; connections are opened by the first webhook.

    Args:
        database_url: the database with the outbox, as a user with the role ``outbox_receiver``.
        secrets_dir: a folder with a file for each account, and in it a secret a line.
        signature_header: which header holds the HMAC-SHA256 of the body, where one is sent.
        only_signed: take nothing that is not signed.
    """
    desk = Desk(database_url)
    intake = Intake(desk, Senders(Path(secrets_dir)), signature_header.lower(), only_signed=only_signed)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await desk.close()

    routes = [Route(path, intake.take, methods=["POST"]) for path in ("/{account}", "/{account}/{secret}")]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.close = desk.close  # for an app that mounts it: nobody runs the lifespan of what is mounted
    return app


class Intake:
    """Where webhooks are handed in."""

    def __init__(
        self,
        desk: Desk,
        senders: Senders,
        signature_header: str,
        *,
        only_signed: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = desk
        self._senders = senders
        self._signature_header = signature_header
        self._only_signed = only_signed
        self._clock = clock
        self._refused_count = 0
        self._say_refused_at = float("-inf")

    async def take(self, request: Request) -> Response:
        """Take one webhook."""
        account = request.path_params["account"]
        signatures = [
            part for value in request.headers.getlist(self._signature_header) for part in value.split(",")
        ]
        try:
            is_known = not self._only_signed and self._senders.knows(account, _shown(request))
            if not is_known and not signatures:
                return self._refuse()
            body = await _whole_body(request)
            if body is None:
                return _say(413, f"over {BODY_LIMIT} bytes")
            if not is_known and not self._senders.signed(account, body, signatures):
                return self._refuse()
        except (ClientDisconnect, TimeoutError):
            return _say(408, "the body did not come whole")
        except SettingsError as error:
            emit(Event.WEBHOOK_FAILED, error=error)
            return _say(503, "not now")
        return await self._keep(account, request, body)

    async def _keep(self, account: str, request: Request, body: bytes) -> Response:
        reading = read(body, request.headers, datetime.now(UTC))
        try:
            await self._desk.keep(Webhook(account, _kept(request), body, reading))
        except UnknownAccount as error:
            emit(Event.WEBHOOK_FAILED, error=error)
            return _say(404, "no such account")
        except StoreUnavailable as error:
            emit(Event.DISCONNECTED, who="receiver", error=str(error))
            return _say(503, "not now")
        except StoreRefused as error:
            emit(Event.WEBHOOK_FAILED, error=error)
            return _say(503, "not now")
        return _say(200, "ok")

    def _refuse(self) -> Response:
        self._refused_count += 1
        if self._clock() >= self._say_refused_at:
            emit(Event.WEBHOOK_REFUSED, count=self._refused_count)
            self._refused_count, self._say_refused_at = 0, self._clock() + REFUSED_SECONDS
        return _say(401, "who are you?")


def _shown(request: Request) -> list[bytes]:
    """What the sender shows for a secret."""
    shown = [request.path_params.get("secret", ""), request.headers.get(SECRET_HEADER, "")]
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    shown.append(token.strip() if scheme.lower() == "bearer" else "")
    return [each.encode("utf-8", "surrogatepass") for each in shown if each]


async def _whole_body(request: Request) -> bytes | None:
    """The body; None: it is larger than any that is taken, or nobody knows how large."""
    try:
        if int(request.headers.get("content-length", "0")) > BODY_LIMIT:
            return None
    except ValueError:  # not every server that an app runs on looks at it
        return None
    body = bytearray()
    async with asyncio.timeout(BODY_SECONDS):
        async for part in request.stream():
            body += part
            if len(body) > BODY_LIMIT:
                return None
    return bytes(body)


def _kept(request: Request) -> list[tuple[str, str]]:
    """The headers, in their order, each byte one character, as far as there is room.

    Proxies repeat the path, and the secret in it, in headers of many names.
    """
    kept, room = [], HEADERS_LIMIT
    shown = _shown(request)
    for name, value in request.headers.raw:
        tells = name.decode("latin-1") in NOT_KEPT or any(each in unquote_to_bytes(value) for each in shown)
        text = "" if tells else value.decode("latin-1").replace("\0", "")
        room -= len(name) + len(text)
        if room < 0:
            break
        kept.append((name.decode("latin-1"), text))
    return kept


def _say(status: int, text: str) -> Response:
    headers = {"retry-after": "5"} if status == 503 else None
    return PlainTextResponse(f"{text}\n", status, headers)
