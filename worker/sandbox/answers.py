"""The API's methods, and how its answers look.

Sources: the public pages of EnableX; the path of the unified API differs between them, so both are served.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from worker.operation import Answer
from worker.sandbox.switches import Envelope

JSON = (b"content-type", b"application/json")

_encode = json.JSONEncoder(separators=(",", ":")).encode

BUSINESS_RESULT = 1001
"""``result`` of a business failure, which comes with HTTP 200."""


@dataclass(frozen=True, slots=True)
class Method:
    """One thing that the API can be asked to do."""

    name: str
    path: str
    id_field: str


METHODS = (
    Method("voice.call", "/voice/v1/call", "voice_id"),
    Method("voice.broadcast", "/voice/v1/broadcast", "broadcast_id"),
    Method("sms.send", "/sms/v1/messages/", "job_id"),
    Method("whatsapp.send", "/whatsapp/v1/messages", "job_id"),
    Method("rcs.send", "/rcs/v1/messages", "job_id"),
    Method("rcs.template", "/rcs/v1/messages/templates", "job_id"),
    Method("message.send", "/messaging/v1/send", "job_id"),
    Method("message.send", "/messaging/v1/messages", "job_id"),
)

BY_PATH = {method.path: method for method in METHODS}

METHOD_NAMES = tuple(dict.fromkeys(method.name for method in METHODS))


def success(method: Method, provider_id: str) -> Answer:
    """The answer to an execution."""
    return json_answer(200, {"result": 0, method.id_field: provider_id})


def error(
    envelope: Envelope,
    status: int,
    code: str,
    message: str,
    *,
    request_id: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> Answer:
    """An error answer in one of the two documented shapes."""
    if envelope is Envelope.A:
        shown_a = {"status": "error", "error_code": code, "message": message, "request_id": request_id}
        return json_answer(status, shown_a, headers)
    result = BUSINESS_RESULT if status == HTTPStatus.OK else status
    return json_answer(status, {"result": result, "error": code, "desc": message}, headers)


def json_answer(
    status: int, shown: Mapping[str, object], headers: Iterable[tuple[bytes, bytes]] = ()
) -> Answer:
    """*shown* as a JSON answer."""
    return whole(status, (JSON, *headers), _encode(shown).encode())


def whole(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Answer:
    """An answer that says how long it is."""
    return Answer(status, (*headers, (b"content-length", b"%d" % len(body))), body)
