"""Who asks: a login of Postgres, its password tried on Postgres itself, or whom a trusted proxy names.

Connections that were let in are kept for ``KEPT_SECONDS``, so that a page which asks every few seconds does
not log in each time; a password that was changed, or a role that was taken away, counts no later than that.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
import select
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from starlette.requests import Request

from worker.complaint import complaint
from worker.errors import RingonceError, SettingsError, StoreUnavailable
from worker.store.connection import conninfo
from worker.store.sessions import refuse_shared
from worker.store.standing import Standing, put_on, standing

__all__ = ["KEPT_SECONDS", "Logins", "NotAllowed", "NotLetIn", "Person", "Proxy"]

KEPT_SECONDS: Final = 60.0
"""How long a connection is used after its login."""
KEPT_COUNT: Final = 2
"""Connections kept for one person; more at once are opened, and closed again."""
READER: Final = "outbox_reader"
ADMIN: Final = "outbox_admin"


class NotLetIn(RingonceError):
    """Nobody knows who asks: no name, or not with this password."""


class NotAllowed(RingonceError):
    """It is known who asks, and may not."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """Who in front of the page is believed to know who asks."""

    header: str
    """Names the person, as a role of Postgres."""
    networks: tuple[IPv4Network | IPv6Network, ...]
    """Where the proxy speaks from; the header of anybody else counts for nothing."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks."""

    name: str
    is_admin: bool


@dataclass(frozen=True, slots=True)
class _Kept:
    conn: Connection[TupleRow]
    person: Person | None
    """None: of the page's own user, for whoever the proxy names."""
    since: float


class Logins:
    """Lets people in, one connection to a request; for any number of threads."""

    def __init__(self, url: str, proxy: Proxy | None = None) -> None:
        self._url = conninfo(url, "ringonce dashboard")
        self._proxy = proxy
        self._salt = secrets.token_bytes(32)
        self._kept: defaultdict[bytes, list[_Kept]] = defaultdict(list)
        self._lock = threading.Lock()

    @contextmanager
    def entered(self, request: Request) -> Iterator[tuple[Person, Connection[TupleRow]]]:
        """Who sent *request*, and a connection that works in their name.

        Raises:
            NotLetIn: nobody knows who asks.
            NotAllowed: it is nobody whom the outbox knows.
            StoreUnavailable: Postgres cannot be reached.
        """
        if (name := self._named_by_proxy(request)) is not None:
            place, login = self._digest("", ""), None
        else:
            login = _basic(request)
            place = self._digest(*login)
        kept = self._take(place) or self._open(login)
        try:
            yield kept.person or _step_in(kept.conn, name), kept.conn
        finally:
            self._give_back(place, kept)

    def close(self) -> None:
        """Close what is kept."""
        with self._lock:
            kept = [each for place in self._kept.values() for each in place]
            self._kept.clear()
        for each in kept:
            each.conn.close()

    def _named_by_proxy(self, request: Request) -> str | None:
        if self._proxy is None or request.client is None:
            return None
        peer = ip_address(request.client.host)
        names = request.headers.getlist(self._proxy.header)
        if not names or not any(peer in network for network in self._proxy.networks):
            return None
        if len(names) > 1 or not names[0]:  # somebody slipped in another, or the proxy knows nobody
            raise NotLetIn("the proxy in front of this page does not say who you are")
        return names[0].encode("latin-1").decode("utf-8", "replace")

    def _open(self, login: tuple[str, str] | None) -> _Kept:
        if login is None:
            return _Kept(_connect(self._url), None, time.monotonic())
        conn = _log_in(self._url, *login)
        try:
            found = standing(conn)
            person = _person(found)
            put_on(conn, ADMIN if person.is_admin else READER)
        except BaseException:
            conn.close()
            raise
        return _Kept(conn, person, time.monotonic())

    def _take(self, place: bytes) -> _Kept | None:
        with self._lock:
            stale = self._drop_stale()
            found = self._kept.pop(place, [])
            quiet = [each for each in found if _is_quiet(each.conn)]
            stale += [each for each in found if each not in quiet]
            kept = quiet.pop() if quiet else None
            if quiet:
                self._kept[place] = quiet
        for each in stale:
            each.conn.close()
        return kept

    def _drop_stale(self) -> list[_Kept]:
        """Forget what was let in too long ago, whoever it was."""
        old = time.monotonic() - KEPT_SECONDS
        stale = [each for place in self._kept.values() for each in place if each.since < old]
        fresh = {place: [each for each in found if each.since >= old] for place, found in self._kept.items()}
        self._kept = defaultdict(list, {place: found for place, found in fresh.items() if found})
        return stale

    def _give_back(self, place: bytes, kept: _Kept) -> None:
        usable = not kept.conn.closed and kept.conn.info.transaction_status is TransactionStatus.IDLE
        with self._lock:
            if usable and len(self._kept[place]) < KEPT_COUNT:
                self._kept[place].append(kept)
                return
        kept.conn.close()

    def _digest(self, user: str, password: str) -> bytes:
        """Stands for a login among what is kept, so that no password is."""
        return hmac.digest(self._salt, f"{user}\0{password}".encode(), "sha256")


def _basic(request: Request) -> tuple[str, str]:
    """The name and the password of HTTP Basic."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    name, _, password = text.partition(":")
    if scheme.lower() != "basic" or not name or not password or "\0" in text:
        raise NotLetIn("log in as a user of Postgres")
    return name, password


def _is_quiet(conn: Connection[TupleRow]) -> bool:
    """Whether Postgres has said nothing unasked: it hangs up with a word, and on nobody who waits without."""
    waiting = select.poll()
    waiting.register(conn.fileno(), select.POLLIN)
    return not waiting.poll(0)


def _connect(url: str) -> Connection[TupleRow]:
    try:
        conn = psycopg.connect(url, autocommit=True, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"Postgres cannot be reached: {complaint(error)}") from None
    return _alone(conn, url)


def _alone(conn: Connection[TupleRow], info: str) -> Connection[TupleRow]:
    """*conn*, whose session nobody else gets with the role that it is about to put on."""
    try:
        refuse_shared(conn, info, what="the admin page")
    except BaseException as error:
        conn.close()
        if isinstance(error, SettingsError | psycopg.OperationalError):
            raise StoreUnavailable(complaint(error)) from None
        raise
    return conn


def _log_in(url: str, name: str, password: str) -> Connection[TupleRow]:
    """A connection of *name*'s own, if Postgres asked for the password and took it."""
    login = make_conninfo(url, user=name, password=password, passfile=os.devnull)
    try:
        conn = psycopg.connect(login, autocommit=True, prepare_threshold=None)
    except psycopg.OperationalError as error:
        if error.pgconn is not None and error.pgconn.used_password:
            raise NotLetIn("Postgres knows no such user with this password") from None
        raise StoreUnavailable(f"Postgres cannot be reached: {complaint(error)}") from None
    if conn.pgconn.used_password:
        return _alone(conn, login)
    conn.close()
    raise NotAllowed(
        "Postgres lets this machine in without a password, so that yours proves nothing: have pg_hba.conf "
        "ask for one (scram-sha-256), or put a proxy in front that knows who you are"
    )


def _step_in(conn: Connection[TupleRow], name: str | None) -> Person:
    """Have the page's own connection work for whom the proxy names."""
    person = _person(standing(conn, name))
    put_on(conn, ADMIN if person.is_admin else READER, acted_for=person.name)
    return person


def _person(found: Standing | None) -> Person:
    if found is None or not (found.is_admin or found.is_reader):
        raise NotAllowed("you have neither of the roles outbox_reader and outbox_admin")
    return Person(found.name, is_admin=found.is_admin)
