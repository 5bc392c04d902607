"""The sandbox as an ASGI application: from bytes to a ``Call``, and from a decision to bytes, or to a fault.

It needs ``wire.WireProtocol`` under it; ``server`` puts the two together.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from functools import lru_cache

from starlette.types import Receive, Scope, Send

from worker.sandbox import wire
from worker.sandbox.answers import BY_PATH, Method
from worker.sandbox.api import Api, Call, Decided
from worker.sandbox.control import PREFIX, control_app
from worker.sandbox.decisions import decide
from worker.sandbox.faults import NO_FAULT, Fault, Step
from worker.sandbox.idempotency import KEY_LIMIT
from worker.sandbox.ledger import Outcome
from worker.sandbox.refusals import BODY_LIMIT

CREDENTIAL_LIMIT = 8 << 10
"""Bytes of a credential in base64; a longer one is none. A thousand of them are remembered."""
TRACEPARENT_LIMIT = 55
"""Characters that W3C's header has."""
APP_ID_LIMIT = 255
"""Characters of an APP ID that the ledger keeps; one more shows that it is longer."""

Refuse = Callable[[float], None]
"""Closes the listening socket for so many seconds."""


class SandboxApp:
    """Serves the API's methods, and the steering under ``/_sandbox``."""

    def __init__(self, api: Api, refuse: Refuse) -> None:
        self._api = api
        self._refuse = refuse
        self._control = control_app(api, refuse)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"]
        method = BY_PATH.get(path)
        if method is not None and scope["method"] == "POST":
            await self._serve(method, scope, receive, send)
        elif path == PREFIX or path.startswith(f"{PREFIX}/"):
            await self._control(scope, receive, send)
        else:
            await self._turn_away(scope, send)

    async def _serve(self, method: Method, scope: Scope, receive: Receive, send: Send) -> None:
        call = self._arrived(method, scope["headers"])
        if call.step.fault in (Fault.RESET_BEFORE, Fault.REFUSE):
            await self._sever(call, scope, receive)
        elif (decided := await self._decided(call, receive)) is not None:
            await self._deliver(call, decided, scope, receive, send)

    def _arrived(self, method: Method, headers: Iterable[tuple[bytes, bytes]]) -> Call:
        authorization, keys, traceparent = b"", [], None
        for name, value in headers:
            if name == b"idempotency-key":
                keys.append(value.decode("latin-1")[: KEY_LIMIT + 1])  # Enough to see that it is too long.
            elif name == b"authorization":
                authorization = value
            elif name == b"traceparent":
                traceparent = value.decode("latin-1")[:TRACEPARENT_LIMIT]
        app_id, app_key = read_basic(authorization[: 2 * CREDENTIAL_LIMIT])
        step = self._api.plan.next_step(method.name, keys[0] if keys else None)
        return Call(method, self._api.clock(), step, app_id, app_key, tuple(keys), traceparent)

    async def _decided(self, call: Call, receive: Receive) -> Decided | None:
        self._api.in_progress += 1
        try:
            body = await wire.whole_body(receive, BODY_LIMIT)
            if body is None:
                self._api.note(call, Outcome.INCOMPLETE)
                return None
            decided = await decide(self._api, call, body)
            self._api.note(call, decided.outcome, decided)
            return decided
        finally:
            self._api.in_progress -= 1

    async def _sever(self, call: Call, scope: Scope, receive: Receive) -> None:
        self._api.note(call, Outcome.SEVERED)
        if call.step.fault is Fault.REFUSE:
            self._refuse(_seconds(call.step, self._api.settings.faults.refuse_seconds))
        await wire.reset(wire.transport_of(scope), receive)

    async def _deliver(
        self, call: Call, decided: Decided, scope: Scope, receive: Receive, send: Send
    ) -> None:
        transport, faults, step = wire.transport_of(scope), self._api.settings.faults, call.step
        match step.fault:
            case Fault.DROP:
                await wire.drop(transport, receive)
            case Fault.HANG:
                await wire.hang(transport, receive, _seconds(step, faults.hang_seconds))
            case Fault.GARBAGE:
                await wire.garble(transport, receive)
            case Fault.CUT:
                await wire.cut(decided.answer, transport, receive, send)
            case Fault.SLOW_BODY:
                seconds = _seconds(step, faults.drip_seconds)
                await wire.drip(decided.answer, transport, receive, send, lambda: self._api.pause(seconds))
            case _:
                await wire.send_answer(decided.answer, send)

    async def _turn_away(self, scope: Scope, send: Send) -> None:
        path = scope["path"]
        if path in BY_PATH:
            allow = (b"allow", b"POST")
            answer = self._api.reject(405, "METHOD_NOT_ALLOWED", f"{path} takes POST only", allow)
        else:
            answer = self._api.reject(404, "NOT_FOUND", f"no {path[:100]}; {_nearest(path)}")
        stray = Call(Method(path[:100], path, ""), self._api.clock(), NO_FAULT)
        self._api.note(stray, Outcome.REJECTED, Decided(answer, Outcome.REJECTED))
        await wire.send_answer(answer, send)


@lru_cache(maxsize=1024)
def read_basic(authorization: bytes) -> tuple[str, str]:
    """APP ID and APP KEY from an ``Authorization: Basic`` header; two empty texts if it is none."""
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic" or len(encoded) > CREDENTIAL_LIMIT:
        return "", ""
    try:
        app_id, _, app_key = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return app_id[: APP_ID_LIMIT + 1], app_key


def _seconds(step: Step, usual: float) -> float:
    return usual if step.seconds is None else step.seconds


def _nearest(path: str) -> str:
    for known in BY_PATH:
        if known.rstrip("/") == path.rstrip("/"):
            return f"{known} is the path: a slash at the end counts"
    return f"the paths are {', '.join(BY_PATH)}; the steering is at {PREFIX}"
