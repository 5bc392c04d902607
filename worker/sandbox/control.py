"""Steering the sandbox over HTTP, under ``/_sandbox``.

There is no login here: the sandbox is a thing for 127.0.0.1. Bodies and answers are JSON. What cannot be
used gets 422 with a text that says what can.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from itertools import islice

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.errors import SettingsError
from worker.sandbox.answers import METHODS
from worker.sandbox.api import Api
from worker.sandbox.faults import Fault, checked_seconds, reject_unknown
from worker.sandbox.wire import whole_body

PREFIX = "/_sandbox"

PAGE_LIMIT = 10_000
"""Rows of the ledger in one answer."""
BODY_LIMIT = 1 << 20
"""Bytes of what is sent to steer it."""
LONGEST_NUMBER = 18
"""Digits: more than any ledger has rows, and what Python can still count with."""

GUIDE = {
    "GET /_sandbox/counts": "totals since the last reset",
    "GET /_sandbox/ledger?kind=executions|requests&after=0&limit=1000": "rows; follow next_after to null",
    "GET /_sandbox/executions?key=&app_id=": "the executions under a key",
    "GET /_sandbox/executed_twice": "every key that was executed more than once",
    "GET /_sandbox/settings": "every switch",
    "PATCH /_sandbox/settings": "switch: an object with what shall change",
    "GET /_sandbox/webhooks?after=0&limit=1000": "what was to be told, and what was lost",
    "PUT /_sandbox/credentials": "replace them all: {APP_ID: APP_KEY, or {app_key, standing}}; "
    "standing is active, expired or suspended",
    "POST /_sandbox/script": "faults for the next requests: {steps: [...]}, or of one key or endpoint",
    "POST /_sandbox/refuse": "refuse connections: {seconds}",
    "POST /_sandbox/clock": "let keys age: {advance_seconds}",
    "POST /_sandbox/hurry": "end every latency that is being waited for",
    "POST /_sandbox/reset": "forget ledger, keys and scripts; settings stay",
}

Handler = Callable[[Request], Awaitable[Response]]


class Control:
    """One method for each entry of ``GUIDE``."""

    def __init__(self, api: Api, refuse: Callable[[float], None]) -> None:
        self._api = api
        self._refuse = refuse

    def routes(self) -> list[Route]:
        """Where each method is found."""
        served: list[tuple[str, str, Handler]] = [
            ("GET", "", self.guide),
            ("GET", "/", self.guide),
            ("GET", "/counts", self.counts),
            ("GET", "/ledger", self.ledger),
            ("GET", "/executions", self.executions),
            ("GET", "/executed_twice", self.executed_twice),
            ("GET", "/settings", self.settings),
            ("PATCH", "/settings", self.change_settings),
            ("GET", "/webhooks", self.webhooks),
            ("PUT", "/credentials", self.replace_credentials),
            ("POST", "/script", self.script),
            ("POST", "/refuse", self.refuse),
            ("POST", "/clock", self.clock),
            ("POST", "/hurry", self.hurry),
            ("POST", "/reset", self.reset),
        ]
        return [Route(PREFIX + path, handler, methods=[verb]) for verb, path, handler in served]

    async def guide(self, _: Request) -> Response:
        """What there is."""
        paths = {method.path: method.name for method in METHODS}
        return JSONResponse({"steering": GUIDE, "faults": list(Fault), "endpoints": paths})

    async def counts(self, _: Request) -> Response:
        """Totals since the last reset."""
        return JSONResponse(asdict(self._api.counts()))

    async def ledger(self, request: Request) -> Response:
        """One page of executions or of requests."""
        kind = request.query_params.get("kind", "executions")
        if kind not in ("executions", "requests"):
            raise SettingsError(f"kind is executions or requests, not {kind!r}")
        after, limit = _number(request, "after", 0), min(_number(request, "limit", 1000), PAGE_LIMIT)
        rows = self._api.ledger.page(kind, after=after, limit=limit)
        next_after = rows[-1].number if rows and len(rows) == limit else None
        return JSONResponse({"rows": [each.to_json() for each in rows], "next_after": next_after})

    async def executions(self, request: Request) -> Response:
        """The executions under one key."""
        key, app_id = request.query_params.get("key"), request.query_params.get("app_id")
        if key is None:
            raise SettingsError("which key? executions?key=...; for all of them read the ledger")
        return JSONResponse([each.to_json() for each in self._api.ledger.executions(key, app_id)])

    async def executed_twice(self, _: Request) -> Response:
        """Every key that was executed more than once."""
        repeats = self._api.ledger.executed_twice()
        return JSONResponse({"count": len(repeats), "keys": [each.to_json() for each in repeats]})

    async def settings(self, _: Request) -> Response:
        """Every switch."""
        return JSONResponse(self._api.settings.to_json())

    async def change_settings(self, request: Request) -> Response:
        """Change what the body names."""
        self._api.configure(await _object(request))
        return await self.settings(request)

    async def webhooks(self, request: Request) -> Response:
        """What was to be told, and how the receiver answered."""
        after, limit = _number(request, "after", 0), min(_number(request, "limit", 1000), PAGE_LIMIT)
        announcer = self._api.webhooks
        rows = [each.to_json() for each in islice(announcer.told, after, after + limit)]
        next_after = after + limit if len(rows) == limit else None
        shown = {"rows": rows, "next_after": next_after, "pending": announcer.pending_count}
        return JSONResponse({**shown, "answers": announcer.answers})

    async def replace_credentials(self, request: Request) -> Response:
        """Replace every credential."""
        self._api.configure({"credentials": await _object(request)})
        return await self.settings(request)

    async def script(self, request: Request) -> Response:
        """Append faults for the next requests."""
        body = await _object(request)
        reject_unknown("a script", body, ("steps", "key", "endpoint"))
        steps, key, endpoint = body.get("steps"), body.get("key"), body.get("endpoint")
        if not isinstance(steps, list):
            raise SettingsError("steps must be an array")
        if not isinstance(key, str | None) or not isinstance(endpoint, str | None):
            raise SettingsError("key and endpoint are text")
        self._api.script(steps, key=key, endpoint=endpoint)
        return JSONResponse({"added": len(steps)})

    async def refuse(self, request: Request) -> Response:
        """Refuse connections from now on."""
        seconds = checked_seconds("seconds", (await _object(request)).get("seconds"))
        self._refuse(seconds)
        return JSONResponse({"refusing_seconds": seconds})

    async def clock(self, request: Request) -> Response:
        """Put the clock forward."""
        seconds = checked_seconds("advance_seconds", (await _object(request)).get("advance_seconds"))
        self._api.clock.advance(seconds)
        return JSONResponse({"now": self._api.clock()})

    async def hurry(self, _: Request) -> Response:
        """End what is being waited for."""
        self._api.hurry()
        return JSONResponse({"hurried": True})

    async def reset(self, _: Request) -> Response:
        """Forget what has been done."""
        self._api.reset()
        return JSONResponse({"reset": True})


def control_app(api: Api, refuse: Callable[[float], None]) -> Starlette:
    """The application that serves ``/_sandbox``."""
    handlers = {SettingsError: _unusable, HTTPException: _turned_away}
    return Starlette(routes=Control(api, refuse).routes(), exception_handlers=handlers)


async def _unusable(_: Request, problem: Exception) -> Response:
    text = str(problem).encode("ascii", "backslashreplace").decode()  # it may repeat half a surrogate pair
    return JSONResponse({"error": text}, status_code=422)


async def _turned_away(request: Request, problem: Exception) -> Response:
    if not isinstance(problem, HTTPException):
        raise problem
    shown = {"error": f"no {request.method} {request.url.path}", "steering": GUIDE}
    return JSONResponse(shown, status_code=problem.status_code, headers=problem.headers)


async def _object(request: Request) -> dict[str, object]:
    raw = await whole_body(request.receive, BODY_LIMIT)
    if raw is None or len(raw) > BODY_LIMIT:
        raise SettingsError(f"the body must be whole, and not over {BODY_LIMIT} bytes")
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as problem:
        raise SettingsError(f"the body is not JSON: {problem}") from problem
    if not isinstance(body, dict):
        raise SettingsError("the body must be a JSON object")
    return body


def _number(request: Request, name: str, usual: int) -> int:
    text = request.query_params.get(name, str(usual))
    if not text.isascii() or not text.isdigit() or len(text) > LONGEST_NUMBER:
        raise SettingsError(f"{name} must be a number, not {text!r}")
    return int(text)
