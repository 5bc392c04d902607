"""What Postgres refuses, in the words of our errors, whichever driver it came through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from worker.complaint import complaint
from worker.errors import (
    EnqueueError,
    InvalidKey,
    InvalidLane,
    InvalidPayload,
    InvalidTime,
    KeyConflict,
    UnknownAccount,
    UnknownEndpoint,
)

__all__ = ["refusals", "sqlstate"]

_REFUSALS: Final[Mapping[str, type[EnqueueError]]] = {
    "RO001": UnknownEndpoint,
    "RO002": UnknownAccount,
    "RO003": InvalidKey,
    "RO004": InvalidPayload,
    "RO005": KeyConflict,
    "RO006": InvalidTime,
    "RO007": InvalidLane,
    "22P02": InvalidPayload,  # not JSON at all: the cast of the text refuses it before the function is called
    "22P05": InvalidPayload,
    "22021": InvalidPayload,  # NUL in a text
    "54001": InvalidPayload,  # nested too deep
    "22003": InvalidLane,  # priority beyond integer
    "22008": InvalidTime,
    "23514": EnqueueError,
}


@contextmanager
def refusals(errors: type[Exception]) -> Iterator[None]:
    """Raise what Postgres refuses within as an ``EnqueueError``, and everything else as it is.

    Raises:
        EnqueueError: its text is Postgres' own, without what Postgres quotes of the row.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise EnqueueError(f"the connection's client_encoding is {error.encoding}: use UTF8") from error
    except errors as error:
        told = _driver_error(error)
        kind = _REFUSALS.get(sqlstate(told) or "")
        if kind is None:
            raise
        raise kind(complaint(told)) from told  # SQLAlchemy's repeats the parameters, and ends in logs


def _driver_error(error: BaseException) -> BaseException:
    """The innermost with a state: SQLAlchemy and Django wrap it, SQLAlchemy on asyncpg twice."""
    inner = error.__cause__
    if inner is None:
        return error
    deepest = _driver_error(inner)
    return deepest if sqlstate(deepest) else error


def sqlstate(error: BaseException) -> str | None:
    """What Postgres calls an error of a driver; None: it is none of Postgres'."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)  # psycopg2 says pgcode
