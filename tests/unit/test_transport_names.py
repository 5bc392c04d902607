"""aiohttp's errors under httpx's names: the phase decides which table, and nothing secret comes along."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import cast

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from worker.errors import SendWindowPassed
from worker.operation import Phase
from worker.transport import BodyTooLarge, UnknownFailure, named

KEY = cast(ConnectionKey, SimpleNamespace(host="api", port=443, ssl=True, is_ssl=True))
REQUEST = RequestInfo(
    URL("https://api/"),
    "POST",
    CIMultiDictProxy(CIMultiDict({"Authorization": "Basic canary"})),
    URL("https://api/"),
)
BROKEN = OSError(104, "broken")


def called(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


BEFORE = [
    (aiohttp.ClientConnectorError(KEY, BROKEN), httpx.ConnectError),
    (aiohttp.ClientConnectorDNSError(KEY, BROKEN), httpx.ConnectError),
    (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "bad")), httpx.ConnectError),
    (
        aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError(1, "bad")),
        httpx.ConnectError,
    ),
    (aiohttp.ClientProxyConnectionError(KEY, BROKEN), httpx.ProxyError),
    (aiohttp.ClientHttpProxyError(REQUEST, (), status=407), httpx.ProxyError),
    (aiohttp.ConnectionTimeoutError("too slow"), httpx.ConnectTimeout),
    (aiohttp.ClientConnectionError("Connector is closed."), httpx.ConnectError),
    (aiohttp.NonHttpUrlClientError("ftp://api"), httpx.UnsupportedProtocol),
    (aiohttp.InvalidURL("::"), httpx.UnsupportedProtocol),
    (BROKEN, httpx.ConnectError),
    (SendWindowPassed("late"), SendWindowPassed),
    (RuntimeError("Session is closed"), UnknownFailure),
]
AFTER = [
    (aiohttp.ServerDisconnectedError(), httpx.RemoteProtocolError),
    (aiohttp.ClientPayloadError("cut"), httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError(REQUEST, (), status=400, message="bad"), httpx.RemoteProtocolError),
    (aiohttp.ClientOSError(104, "reset"), httpx.ReadError),
    (aiohttp.SocketTimeoutError("silence"), httpx.ReadTimeout),
    (TimeoutError(), httpx.ReadTimeout),
    (BROKEN, httpx.ReadError),
    (httpx.WriteError("cut"), httpx.WriteError),
    (BodyTooLarge("large"), BodyTooLarge),
    # By the time of a connection these are impossible, so they mean nothing that we know.
    (aiohttp.ClientConnectionError("odd"), UnknownFailure),
    (RuntimeError("Connection closed."), UnknownFailure),
    (KeyError("odd"), UnknownFailure),
]


@pytest.mark.parametrize(("error", "name"), BEFORE, ids=called)
def test_before_a_connection(error: Exception, name: type[Exception]) -> None:
    assert type(named(error, Phase.CONNECTING)) is name


@pytest.mark.parametrize(("error", "name"), AFTER, ids=called)
def test_after_a_connection(error: Exception, name: type[Exception]) -> None:
    assert type(named(error, Phase.SENT)) is name


@pytest.mark.parametrize("error", [error for error, _ in BEFORE], ids=called)
def test_no_error_after_a_connection_has_the_name_of_one_before(error: Exception) -> None:
    before = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
    assert not isinstance(named(error, Phase.SENT), before)


def test_what_the_body_raised_comes_out_of_its_wrapping() -> None:
    late = SendWindowPassed("late")
    wrapped = aiohttp.ClientConnectionError("Failed to send bytes")
    wrapped.__cause__ = late
    assert named(wrapped, Phase.CONNECTING) is late


def test_the_cause_is_kept_only_if_it_is_the_systems() -> None:
    assert named(BROKEN, Phase.SENT).__cause__ is BROKEN
    assert named(aiohttp.ClientResponseError(REQUEST, ()), Phase.SENT).__cause__ is None


@pytest.mark.parametrize(
    "said",
    ["Bad status line 'canary", 'Bad status line "canary', "Bad status line:\n  canary", "Bad status line"],
)
def test_a_text_ends_where_it_begins_to_quote_the_server(said: str) -> None:
    error = aiohttp.ClientResponseError(REQUEST, (), status=400, message=said)
    assert str(named(error, Phase.SENT)) == "ClientResponseError: Bad status line"


@pytest.mark.parametrize("error", [error for error, _ in BEFORE + AFTER], ids=called)
def test_an_error_always_says_something(error: Exception) -> None:
    assert str(named(error, Phase.CONNECTING))
    assert str(named(error, Phase.SENT))
