"""An outbox that a test has to itself: empty, with short waits, its accounts at the imitation of the API."""

from __future__ import annotations

import re
from typing import Final

import psycopg
from psycopg import Connection
from psycopg.errors import LockNotAvailable
from psycopg.rows import TupleRow

from worker.credentials import variable_of
from worker.errors import SettingsError, StoreUnavailable
from worker.sandbox import Credential, Sandbox
from worker.store.migrate import migrate

__all__ = ["APP_KEY", "prepare", "seat_accounts"]

APP_KEY: Final = "sandbox"
"""Of every account: the imitation lets in whoever says so."""

LOCK_TIMEOUT: Final = "5s"
"""A test that is over holds nothing any more; what it left open will not be closed by waiting longer."""

_FOR_TESTS: Final = re.compile("(?<![a-z])(py|unit)?test(s|ing|db)?(?![a-z])", re.IGNORECASE)
"""A word of a name: "contest", "latest" and "testimonials" are in production somewhere."""

_IS_USED: Final = "select exists (select from outbox.operation) or exists (select from outbox.action)"
# The triggers keep everybody from forgetting a key; only whoever owns the tables can do this.
_EMPTY: Final = """
    alter table outbox.operation disable trigger user;
    alter table outbox.attempt disable trigger user;
    alter table outbox.action disable trigger user;
    truncate outbox.operation, outbox.attempt, outbox.action, outbox.finished_count, outbox.attempt_count,
             outbox.suspicion, outbox.throttle, outbox.announcement, outbox.webhook,
             outbox.webhook_source cascade;
    alter table outbox.operation enable trigger user;
    alter table outbox.attempt enable trigger user;
    alter table outbox.action enable trigger user;
    update outbox.account
       set paused_at = null, paused_reason = null, blocked_until = null, blocked_reason = null;
    delete from outbox.account_meter;
    insert into outbox.account_meter (account) select name from outbox.account;
    update outbox.retention
       set only_exported = false, exported_until = null,
           scrub_from = null, purge_from = null, webhook_from = null;
"""
# What production leaves to minutes: a retry comes at once, and a call that hangs is over in two seconds.
_SHORT_WAITS: Final = """
    update outbox.endpoint
       set settle = least(settle, '00:00:00.05'), call_deadline = least(call_deadline, '00:00:02'),
           backoff = least(backoff, '00:00:00.01'), backoff_cap = least(backoff_cap, '00:00:00.05')
"""
_DEFAULT_ACCOUNT: Final = """
    insert into outbox.account (name, app_id, base_url) values ('default', 'sandbox', %s)
    on conflict (name) do nothing
"""
_SEAT: Final = """
    update outbox.account set base_url = %s
     where base_url !~ '^https?://(127[.][0-9.]+|localhost|[[]::1[]])([:/]|$)'
"""


def prepare(url: str, api: Sandbox) -> None:
    """Bring the outbox into the database, empty it, and set it up for a test that calls *api*.

    Raises:
        SettingsError: the database's name does not say that it is for tests; nothing was changed.
        StoreUnavailable: another connection holds the outbox's tables; nothing was changed.
    """
    with psycopg.connect(url, autocommit=True) as conn:
        _refuse_unless_for_tests(conn)
        migrate(conn)
        with conn.transaction():
            conn.execute("select set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
            _empty(conn)
            conn.execute(_SHORT_WAITS)
            conn.execute("update outbox.account set base_url = %s", [api.url])
            conn.execute(_DEFAULT_ACCOUNT, [api.url])


def seat_accounts(url: str, api: Sandbox) -> dict[str, str]:
    """Have every account, whoever added it, call *api* and be let in there; the variables of their keys.

    An account that calls this machine already is left as it is: a test may have a server of its own.

    Raises:
        SettingsError: the database's name does not say that it is for tests; nothing was changed.
    """
    with psycopg.connect(url) as conn:
        _refuse_unless_for_tests(conn)  # or its operations would be told that the imitation executed them
        conn.execute(_SEAT, [api.url])
        accounts = conn.execute("select name, app_id from outbox.account").fetchall()
    known = api.settings.credentials
    strange = {app_id: Credential(APP_KEY) for _, app_id in accounts if app_id not in known}
    if strange:
        api.configure(credentials={**known, **strange})
    return {variable_of(name): APP_KEY for name, _ in accounts}


def _refuse_unless_for_tests(conn: Connection[TupleRow]) -> None:
    # Postgres is asked, because a pooler may call any database "test".
    row = conn.execute("select current_database()::text").fetchone()
    name = str(row and row[0])
    if _FOR_TESTS.search(name) is None:
        raise SettingsError(
            f"the database {name!r} does not have the word 'test' in its name: its outbox is not for tests"
        )


def _empty(conn: Connection[TupleRow]) -> None:
    if conn.execute(_IS_USED).fetchone() == (False,):
        return
    try:
        conn.execute(_EMPTY)
    except LockNotAvailable:
        raise StoreUnavailable(
            "the outbox cannot be emptied for this test: a transaction that uses it is still open"
        ) from None
