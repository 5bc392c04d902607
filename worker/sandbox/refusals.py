"""Why the API does not execute a request. Each of these returns None where it has nothing to say.

The gate is credentials and load: 401, 403, 429, 503. Whether it comes before the key is looked at, or only
when a request is to be executed, is a switch (``Gate``).
"""

from __future__ import annotations

import json

from worker.operation import Answer
from worker.sandbox import answers
from worker.sandbox.api import Api, Call
from worker.sandbox.faults import Fault, Step
from worker.sandbox.idempotency import KEY_LIMIT
from worker.sandbox.switches import Gate, Standing

BODY_LIMIT = 4 << 20
"""Bytes; a larger body gets 413."""


def before_key(api: Api, call: Call) -> Answer | None:
    """What is answered without looking at the key; never cached."""
    if call.step.fault is Fault.ANSWER and not call.step.executed:
        return scripted(call.step)
    gate = _gate(api, call) if api.settings.gate is Gate.BEFORE_KEY else None
    return gate or _unusable(api, call)


def before_execution(api: Api, call: Call) -> Answer | None:
    """What is answered at once in place of an execution; cached if errors are."""
    gate = _gate(api, call) if api.settings.gate is Gate.AFTER_KEY else None
    return gate or _bad_body(api, call)


def instead_of_execution(api: Api, call: Call) -> Answer | None:
    """What is answered after the time that an execution takes; cached if errors are."""
    if call.step.fault is Fault.SERVER_ERROR:
        return server_error(api)
    if call.step.fault is Fault.ENVELOPE:
        return api.reject(200, "DESTINATION_BLOCKED", "the destination does not accept this")
    return None


def for_lack_of_room(api: Api) -> Answer | None:
    """507, once the ledger or the key book is full; never cached, for the book would grow further."""
    if not api.ledger.full and len(api.keys) <= api.settings.ledger_limit:
        return None
    message = "the sandbox forgets no execution, and is full: POST /_sandbox/reset, or raise ledger_limit"
    return api.reject(507, "SANDBOX_FULL", message)


def still_running(api: Api) -> Answer:
    """409, if a concurrent request is not to wait."""
    return api.reject(409, "REQUEST_IN_PROGRESS", "the first request with this key still runs")


def server_error(api: Api) -> Answer:
    """500."""
    return api.reject(500, "INTERNAL_ERROR", "something went wrong")


def scripted(step: Step) -> Answer:
    """The answer that the script asks for."""
    headers = [(name.lower().encode(), str(value).encode()) for name, value in step.headers.items()]
    if step.body and not any(name == b"content-type" for name, _ in headers):
        headers.insert(0, answers.JSON)
    return answers.whole(step.status, headers, step.body.encode())


def _gate(api: Api, call: Call) -> Answer | None:
    credential = api.settings.credentials.get(call.app_id)
    if credential is None or credential.app_key != call.app_key:
        return _unauthorized(api, "UNAUTHORIZED", "send Authorization: Basic, with APP_ID:APP_KEY")
    if credential.standing is Standing.EXPIRED:
        return _unauthorized(api, "CREDENTIAL_EXPIRED", "this APP KEY has expired")
    if credential.standing is Standing.SUSPENDED:
        return api.reject(403, "PROJECT_SUSPENDED", "this project is suspended")
    return _overloaded(api, call.step)


def _unauthorized(api: Api, code: str, message: str) -> Answer:
    return api.reject(401, code, message, (b"www-authenticate", b'Basic realm="sandbox"'))


def _overloaded(api: Api, step: Step) -> Answer | None:
    after = step.retry_after if step.retry_after is not None else api.settings.faults.retry_after
    headers = [] if after is None else [(b"retry-after", after.encode())]
    if step.fault is Fault.TOO_MANY_REQUESTS:
        return api.reject(429, "RATE_LIMITED", "too many requests", *headers)
    if step.fault is Fault.UNAVAILABLE:
        return api.reject(503, "SERVICE_UNAVAILABLE", "down for maintenance", *headers)
    return None


def _unusable(api: Api, call: Call) -> Answer | None:
    if len(call.body) > BODY_LIMIT:
        return api.reject(413, "BODY_TOO_LARGE", f"the body is over {BODY_LIMIT} bytes")
    if len(call.keys) > 1:
        return api.reject(400, "INVALID_IDEMPOTENCY_KEY", "more than one Idempotency-Key header")
    if call.key is not None and not 1 <= len(call.key) <= KEY_LIMIT:
        return api.reject(400, "INVALID_IDEMPOTENCY_KEY", f"a key has 1 to {KEY_LIMIT} characters")
    return None


def _bad_body(api: Api, call: Call) -> Answer | None:
    try:
        payload = json.loads(call.body)
    except (ValueError, RecursionError) as problem:
        return api.reject(400, "INVALID_JSON", f"the body is not JSON: {problem}")
    if not isinstance(payload, dict):
        return api.reject(422, "VALIDATION_FAILED", "the body must be a JSON object")
    return None
