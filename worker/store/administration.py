"""What administrators do: the functions of ``schema.sql`` that leave a line in the audit, and accounts.

Plain connections, for the command line and for pages that people open. What becomes of an operation is
decided in Postgres alone; here its refusals become exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from worker.errors import (
    ClaimsShut,
    InvalidTime,
    OperationNotFound,
    RingonceError,
    SettingsError,
    StateConflict,
    UnknownAccount,
    UnknownEndpoint,
)
from worker.operation import State
from worker.store.statements import statement

__all__ = [
    "NO_LIMIT",
    "Doubt",
    "Reissue",
    "Retired",
    "add_account",
    "add_endpoint",
    "adopt_history",
    "answer",
    "cancel",
    "change_account",
    "change_endpoint",
    "confirm_history",
    "doubt_history",
    "expect_webhooks",
    "pause",
    "reissue",
    "resolve",
    "resume",
    "retirable",
    "retire",
    "retry",
    "tolerate_loss",
]

NO_LIMIT: Final = 0
"""Takes a limit of an account away; None leaves it as it is."""

_REFUSALS: Final[dict[str, type[RingonceError]]] = {
    "RO001": UnknownEndpoint,
    "RO002": UnknownAccount,
    "RO006": InvalidTime,
    "RO008": OperationNotFound,
    "RO009": StateConflict,
    "RO012": ClaimsShut,
    "RO013": StateConflict,
}
_RULES: Final[dict[str, tuple[type[RingonceError], str]]] = {
    "account_name_check": (
        SettingsError,
        "an account's name is up to 63 letters, digits and ._-, a letter or digit first",
    ),
    "account_app_id_check": (
        SettingsError,
        "an APP ID is 1 to 255 visible ASCII characters without a colon",
    ),
    "account_base_url_check": (
        SettingsError,
        "a base URL is http(s)://host, perhaps with a port and a path, without a slash at the end",
    ),
    "account_max_in_flight_check": (SettingsError, "max_in_flight is 1 or more"),
    "account_rate_per_second_check": (SettingsError, "rate_per_second is more than 0 and at most 1,000,000"),
    "account_burst_check": (SettingsError, "burst is 1 or more"),
    "account_breaker_counts_attempts": (SettingsError, "breaker_after is 1 or more"),
    "account_check": (SettingsError, "a burst needs a rate_per_second"),
    "endpoint_name_check": (
        SettingsError,
        "an endpoint's name is up to 63 small letters, digits and ._-, a letter or digit first",
    ),
    "endpoint_path_check": (SettingsError, "a path begins with / and is visible ASCII without #"),
    "endpoint_id_field_check": (SettingsError, "an id field has a name, or is none"),
    "endpoint_key_header_check": (SettingsError, "a key header is letters, digits and -"),
    "endpoint_key_header_means_nothing_else": (
        SettingsError,
        "that header means something else: the key needs one of its own",
    ),
    "endpoint_success_is_a_scalar": (
        SettingsError,
        "a success value is a number, a string, true or false, of at most 1,000 bytes",
    ),
    "endpoint_success_is_told_whole": (
        SettingsError,
        "a success field and a success value go together: give both, or none for the field",
    ),
    "endpoint_max_attempts_check": (SettingsError, "max_attempts is 1 to 1000"),
    "endpoint_durations_are_exact": (SettingsError, "durations are exact seconds, not days or months"),
    "endpoint_durations_are_in_bounds": (
        SettingsError,
        "durations are more than 0: key_ttl up to 8760 h, settle and backoff_cap up to 24 h",
    ),
    "endpoint_key_outlives_a_call": (
        SettingsError,
        "key_ttl less key_safety must be longer than call_deadline by a second",
    ),
    "endpoint_safety_outlasts_settle": (SettingsError, "key_safety must be no shorter than settle"),
    "endpoint_account_codes_are_a_list": (SettingsError, "account_codes are at most 1,000 words"),
    "operation_app_id_is_the_accounts": (
        StateConflict,
        "the account has operations, and they carry its APP ID: add another account for the new one",
    ),
}
"""What the constraints mean that an administrator can run into."""


@dataclass(frozen=True, slots=True)
class Reissue:
    """The operation that does another one again."""

    id: int
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """How many operations the adoption of a history put in doubt."""

    count: int
    unresolved_count: int
    """Those among them that their keys protect no longer: nothing more is sent."""


@dataclass(frozen=True, slots=True)
class Retired:
    """How many operations lost payload and answers, how many their rows, and how many webhooks went."""

    scrubbed: int
    purged: int
    webhooks: int


def cancel(conn: Connection[TupleRow], operation_id: int, reason: str) -> State:
    """Take a queued operation back: ``cancelled``, or ``unresolved`` if an attempt may have been executed.

    Raises:
        OperationNotFound: there is none of that number.
        StateConflict: it is not queued, or there is no reason.
        ClaimsShut: it may have been sent by an attempt whose record was lost.
    """
    return State(_one(conn, "cancel", id=operation_id, reason=reason)[0])


def retry(conn: Connection[TupleRow], operation_id: int, reason: str) -> State:
    """Send an operation again under the same key, soon and with a fresh budget.

    Raises:
        OperationNotFound: there is none of that number.
        StateConflict: its key may protect it no longer (law 3), or there is nothing to retry.
    """
    return State(_one(conn, "retry", id=operation_id, reason=reason)[0])


def reissue(conn: Connection[TupleRow], operation_id: int, reason: str) -> Reissue:
    """Do an operation again under a NEW key: the API will execute it, whatever became of the first.

    Raises:
        OperationNotFound: there is none of that number.
        StateConflict: it succeeded, is still being worked on, or was reissued already.
    """
    return Reissue(*_one(conn, "reissue", id=operation_id, reason=reason))


def resolve(conn: Connection[TupleRow], operation_id: int, outcome: State, reason: str) -> State:
    """Settle an unresolved operation: ``succeeded`` (it was executed), or another final state (it was not).

    Raises:
        OperationNotFound: there is none of that number.
        StateConflict: it is not unresolved, or the outcome is not final.
    """
    return State(_one(conn, "resolve", id=operation_id, outcome=outcome.value, reason=reason)[0])


def pause(conn: Connection[TupleRow], account: str, reason: str) -> None:
    """Claim nothing of an account until a person resumes it; what is in flight ends by itself.

    Raises:
        UnknownAccount: there is none of that name.
        StateConflict: there is no reason.
    """
    _one(conn, "pause", account=account, reason=reason)


def resume(conn: Connection[TupleRow], account: str, reason: str) -> None:
    """Lift the pause of an account, and whatever blocks workers have set on it.

    Raises:
        UnknownAccount: there is none of that name.
        StateConflict: there is no reason.
    """
    _one(conn, "resume", account=account, reason=reason)


def expect_webhooks(
    conn: Connection[TupleRow], account: str, endpoint: str, within: timedelta | None, reason: str
) -> None:
    """Miss a webhook from now on if none came *within* so long after the API accepted; None: miss none.

    Raises:
        UnknownAccount: there is none of that name.
        UnknownEndpoint: the same of the endpoint.
        InvalidTime: it is less than a minute, or more than 30 days.
        StateConflict: there is no reason.
    """
    seconds = None if within is None else within.total_seconds()
    _one(conn, "expect_webhooks", account=account, endpoint=endpoint, seconds=seconds, reason=reason)


def retirable(
    conn: Connection[TupleRow], *, scrub_after: timedelta, purge_after: timedelta, look: int
) -> Retired:
    """How much ``retire`` would do, each counted up to one more than *look*."""
    return Retired(*_one(conn, "retirable", look=look, **_seconds(scrub_after, purge_after)))


def retire(
    conn: Connection[TupleRow], reason: str, *, scrub_after: timedelta, purge_after: timedelta, limit: int
) -> Retired:
    """Scrub what has been final for *scrub_after*, delete what has been for *purge_after*.

    Webhooks go that came longer than *scrub_after* ago. Up to *limit* of each, in some 20 s at most: what is
    under a legal hold is walked over, and what others hold is passed over. Waits while a hold is placed.

    Raises:
        StateConflict: a key may live longer than that, or there is no reason.
        ClaimsShut: holds may have been lost with other commits.
    """
    values = _seconds(scrub_after, purge_after)
    return Retired(*_one(conn, "retire", max_count=limit, reason=reason, **values))


def doubt_history(conn: Connection[TupleRow], reason: str) -> None:
    """Claim nothing, in the whole fleet, until a person adopts or confirms the history.

    Raises:
        StateConflict: there is no reason.
    """
    _one(conn, "doubt_history", reason=reason)


def adopt_history(conn: Connection[TupleRow], lost_since: datetime, reason: str) -> Doubt:
    """Put in doubt whatever may have been sent since *lost_since* without a record, and open claims.

    Waits for the claims under way. A million waiting operations take a minute or two.

    Raises:
        StateConflict: nothing happened that there is to adopt, or there is no reason.
        InvalidTime: it lies before the outbox was made, or after workers noted the history last.
    """
    return Doubt(*_one(conn, "adopt_history", lost_since=lost_since, reason=reason))


def confirm_history(conn: Connection[TupleRow], reason: str) -> None:
    """Open claims and put nothing in doubt: whoever gives the *reason* vouches that no claim was lost.

    Raises:
        StateConflict: nothing happened that there is to confirm, or there is no reason.
    """
    _one(conn, "confirm_history", reason=reason)


def tolerate_loss(conn: Connection[TupleRow], within: timedelta | None) -> None:
    """Let workers adopt a new timeline of the cluster if the old one was noted *within* this; None: never."""
    _one(conn, "tolerate_loss", seconds=None if within is None else within.total_seconds())


def add_account(conn: Connection[TupleRow], name: str, app_id: str) -> bool:
    """Add an account without limits, unless there is one of that name; whether it was added.

    Raises:
        SettingsError: the name or the APP ID is not usable.
    """
    return _row(conn, "account_add", name=name, app_id=app_id) is not None


def change_account(
    conn: Connection[TupleRow],
    name: str,
    *,
    app_id: str | None = None,
    base_url: str | None = None,
    max_in_flight: int | None = None,
    rate_per_second: float | None = None,
    burst: int | None = None,
    breaker_after: int | None = None,
    allow_guessable_keys: bool | None = None,
) -> None:
    """Change what is given of an account. None keeps a value, ``NO_LIMIT`` takes a limit away.

    Raises:
        UnknownAccount: there is none of that name.
        SettingsError: a value is not usable.
        StateConflict: its APP ID is frozen, because operations carry it (law 2).
    """
    changed = _row(
        conn,
        "account_change",
        name=name,
        app_id=app_id,
        base_url=base_url,
        max_in_flight=max_in_flight,
        rate_per_second=rate_per_second,
        burst=burst,
        breaker_after=breaker_after,
        allow_guessable_keys=allow_guessable_keys,
    )
    if changed is None:
        raise UnknownAccount(f"there is no account {name!r}")


def add_endpoint(conn: Connection[TupleRow], name: str, path: str) -> bool:
    """Add an endpoint that behaves like EnableX's, unless there is one of that name; whether it was added.

    Raises:
        SettingsError: the name or the path is not usable.
    """
    return _row(conn, "endpoint_add", name=name, path=path) is not None


def change_endpoint(conn: Connection[TupleRow], name: str, changes: Mapping[str, object]) -> None:
    """Change columns of an endpoint to what JSON can hold: durations as ``"30 s"``; None takes a value away.

    Raises:
        UnknownEndpoint: there is none of that name.
        SettingsError: a value is not usable.
    """
    if _row(conn, "endpoint_change", name=name, changes=Jsonb(dict(changes))) is None:
        raise UnknownEndpoint(f"there is no endpoint {name!r}")


def answer(conn: Connection[TupleRow], name: str, /, **values: object) -> tuple[Any, ...]:
    """The one row of ``sql/<name>.sql``, by which a function is called that others than these give a name."""
    return _one(conn, name, **values)


def _seconds(scrub_after: timedelta, purge_after: timedelta) -> dict[str, float]:
    """Exact seconds: psycopg would send days, which are 25 hours once a year (law 10)."""
    return {"scrub_after": scrub_after.total_seconds(), "purge_after": purge_after.total_seconds()}


def _one(conn: Connection[TupleRow], name: str, /, **values: object) -> tuple[Any, ...]:
    row = _row(conn, name, **values)
    if row is None:
        raise AssertionError(f"{name}.sql returned no row")
    return row


def _row(conn: Connection[TupleRow], name: str, /, **values: object) -> tuple[Any, ...] | None:
    try:
        return conn.execute(statement(name), values).fetchone()
    except psycopg.Error as error:
        _refuse(error)


def _refuse(error: psycopg.Error) -> NoReturn:
    said = error.diag
    if kind := _REFUSALS.get(error.sqlstate or ""):
        hint = f". {said.message_hint}" if said.message_hint else ""
        raise kind(f"{said.message_primary}{hint}") from error
    if rule := _RULES.get(said.constraint_name or ""):
        refusal, text = rule
        raise refusal(text) from error
    raise error
