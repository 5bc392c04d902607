"""What keeps a browser from being used against its own person: names, headers, and tokens in every form.

Decisions:
    2026-11-29: the page answers to addresses, to ``localhost`` and to the names that it was given, no others.
    A site can have its own name lead to this machine (DNS rebinding). Its scripts then speak to the page from
    the machine of whoever has it open, which may be the proxy's. No site can have them speak to an address.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CONTENT_SECURITY_POLICY", "TOKEN_SECONDS", "Shield", "Tokens"]

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing but our own files: no script or style inside a page, so none that an answer could bring in."""
_HEADERS: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
TOKEN_SECONDS: Final = 12 * 3600
"""A form that lay open for longer than a working day is asked for again."""
_HOST: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::[0-9]*)?")
_MISDIRECTED: Final = PlainTextResponse(
    "This page does not answer to the name by which it was called. "
    "If it is to, start it with: ringonce dashboard --allowed-host NAME\n",
    status_code=421,
)


class Shield:
    """Turns away who calls the page by a strange name, and puts the headers on whatever is answered.

    Pages are kept by nobody, our files until they change.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        """Stand before *app*, which has these *names* beside every address."""
        self._app = app
        self._names = frozenset(name.lower().rstrip(".") for name in ("localhost", *names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and the answer back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caching = "no-cache" if scope.get("path", "").startswith("/static/") else "no-store"

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS | {"cache-control": caching})
            await send(message)

        ours = self._is_ours(Headers(scope=scope).getlist("host"))
        answer: ASGIApp = self._app if ours else _MISDIRECTED
        await answer(scope, receive, with_headers)

    def _is_ours(self, hosts: list[str]) -> bool:
        """Whether a request with these headers ``Host`` was meant for this page."""
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            return False
        host = found[1] or found[2]
        return host.lower().rstrip(".") in self._names or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class Tokens:
    """Tokens against forged forms, for one process: each is good for one person and for ``TOKEN_SECONDS``."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock

    def make(self, person: str) -> str:
        """A token for the forms of a page that *person* is shown."""
        return self._token(person, str(int(self._clock())))

    def is_good(self, token: str, person: str) -> bool:
        """Whether *token* was made for *person*, and not too long ago."""
        made_at = token.partition(".")[0]
        if not (made_at.isascii() and made_at.isdecimal() and len(made_at) < 20):
            return False
        is_ours = hmac.compare_digest(token.encode("utf-8", "replace"), self._token(person, made_at).encode())
        return is_ours and 0 <= self._clock() - int(made_at) < TOKEN_SECONDS

    def _token(self, person: str, made_at: str) -> str:
        seal = hmac.digest(self._key, f"{made_at} {person}".encode(), "sha256").hex()
        return f"{made_at}.{seal}"
