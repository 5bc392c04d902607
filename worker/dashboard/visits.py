"""One request: whose it is, over which connection, what was filled in. What is refused becomes a page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

import psycopg
from psycopg import Connection
from psycopg.errors import InsufficientPrivilege, QueryCanceled, UndefinedObject, UndefinedTable
from psycopg.rows import TupleRow
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from worker.complaint import complaint
from worker.dashboard.logins import Logins, NotAllowed, NotLetIn, Person
from worker.dashboard.rendering import render
from worker.dashboard.shield import Tokens
from worker.errors import OperationNotFound, RingonceError, StoreUnavailable, UnknownAccount

__all__ = ["Handler", "Visit", "Visits", "astray"]

FORM_LIMIT: Final = 64 * 1024
"""Bytes of a form; the longest reason is 4,000."""
FIELD_LIMIT: Final = 20
EVERY: Final = 5
"""Seconds after which what lives on a page is fetched anew."""

_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (NotLetIn, 401),
    (NotAllowed, 403),
    (InsufficientPrivilege, 403),
    (OperationNotFound, 404),
    (UnknownAccount, 404),
    (StoreUnavailable, 503),
    (QueryCanceled, 503),
    (psycopg.OperationalError, 503),
    (UndefinedTable, 503),
    (UndefinedObject, 503),
)
"""What a refusal is in HTTP, the first that fits; any other of ours is a conflict."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a person who was let in."""

    request: Request
    person: Person
    conn: Connection[TupleRow]
    token: str
    """For the forms of the page that is answered."""
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_fragment(self) -> bool:
        """Whether only what lives on the page is asked for."""
        return _is_fragment(self.request)

    @property
    def operation_id(self) -> int:
        """The operation that the address names.

        Raises:
            OperationNotFound: it is no number, or none that Postgres could hold.
        """
        text: str = self.request.path_params["id"]
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < 2**63):
            raise OperationNotFound(f"there is no operation {text[:30]}")
        return int(text)

    @property
    def address(self) -> str:
        """Of the page, with what was asked of it."""
        return _address(self.request)

    def query(self, name: str) -> str | None:
        """What the address says of *name*; None: nothing."""
        return self.request.query_params.get(name, "").strip() or None

    def number(self, name: str, otherwise: int) -> int:
        """The number that the address gives *name*, if it is one that Postgres can hold."""
        text = self.query(name) or ""
        is_number = text.isascii() and text.isdecimal() and len(text) < 20
        return min(int(text), 2**63 - 1) if is_number else otherwise

    def page(self, template: str, *, every: int | None = EVERY, status: int = 200, **values: Any) -> Response:  # noqa: ANN401 - a template's
        """The page of *template*; what lives on it is fetched anew after *every* seconds, or never (None)."""
        return render(
            template,
            is_fragment=self.is_fragment,
            status=status,
            person=self.person,
            token=self.token,
            address=self.address,
            every=every,
            **values,
        )


Handler = Callable[[Visit], Response]


class Visits:
    """Lets people in, hands their visits to what answers them, and turns refusals into pages."""

    def __init__(self, logins: Logins, tokens: Tokens) -> None:
        self._logins = logins
        self._tokens = tokens

    def to(self, handler: Handler, *, admin: bool = False) -> Callable[[Request], Awaitable[Response]]:
        """What starlette calls for an address that *handler* answers; *admin*: to nobody else."""

        async def endpoint(request: Request) -> Response:
            form = await _form(request) if request.method == "POST" else {}
            return await run_in_threadpool(self._serve, handler, request, form, admin=admin)

        return endpoint

    def _serve(self, handler: Handler, request: Request, form: Mapping[str, str], *, admin: bool) -> Response:
        person: Person | None = None
        try:
            with self._logins.entered(request) as (person, conn):
                self._admit(request, person, form, admin=admin)
                return handler(Visit(request, person, conn, self._tokens.make(person.name), form))
        except (RingonceError, psycopg.Error) as error:
            return self._refusal(request, person, error)

    def _admit(self, request: Request, person: Person, form: Mapping[str, str], *, admin: bool) -> None:
        if admin and not person.is_admin:
            raise NotAllowed("this takes the role outbox_admin")
        if request.method == "POST":
            if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                raise NotAllowed("this form came from another site")
            if not self._tokens.is_good(form.get("token", ""), person.name):
                raise NotAllowed(
                    "this form is too old, or none of ours: go back, load the page again, and repeat it"
                )

    def _refusal(self, request: Request, person: Person | None, error: Exception) -> Response:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 409)
        token = self._tokens.make(person.name) if person else ""
        response = _refused(request, status, _said(error), person=person, token=token)
        if status == 401:
            response.headers["www-authenticate"] = 'Basic realm="ringonce", charset="UTF-8"'
        return response


async def astray(request: Request, error: Exception) -> Response:
    """What is refused whoever asks: an address that leads nowhere, a form that is too long."""
    assert isinstance(error, HTTPException)  # noqa: S101 - starlette hands over what it was asked to
    said = "there is no such page" if error.detail == "Not Found" else error.detail
    response = _refused(request, error.status_code, said)
    response.headers.update(error.headers or {})
    return response


def _refused(
    request: Request, status: int, said: str, *, person: Person | None = None, token: str = ""
) -> Response:
    return render(
        "refusal.html",
        is_fragment=_is_fragment(request),
        status=status,
        person=person,
        token=token,
        address=_address(request),
        every=EVERY if status == 503 and request.method == "GET" else None,
        said=said,
        code=status,
    )


def _said(error: Exception) -> str:
    match error:
        case QueryCanceled():
            return "Postgres took too long to answer: narrow the question down"
        case UndefinedTable() | UndefinedObject():
            return "the database has no outbox that this page knows: run `ringonce migrate`"
        case InsufficientPrivilege():
            return f"{complaint(error)}: the page's own user needs the roles outbox_reader and outbox_admin"
        case psycopg.Error():
            return f"Postgres refused: {complaint(error)}"
    return str(error)


def _is_fragment(request: Request) -> bool:
    return request.headers.get("hx-request") == "true"


def _address(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, as browsers send them unless told otherwise."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_LIMIT:
            raise HTTPException(413, "this form is too long")
    text = body.decode("utf-8", "replace")
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELD_LIMIT))
    except ValueError:
        raise HTTPException(413, f"a form has at most {FIELD_LIMIT} fields") from None
