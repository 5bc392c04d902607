"""The examination: every check in turn, each on its own, so that one which cannot be made spoils no other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Self

import psycopg
from psycopg.errors import InsufficientPrivilege, QueryCanceled

from worker.complaint import complaint
from worker.doctor import outbox, server, sessions, surroundings
from worker.doctor.finding import Finding, Findings, Level, fine, problem, warning
from worker.doctor.patient import Patient
from worker.settings import Settings
from worker.store.connection import conninfo

__all__ = ["examine"]

SECONDS: Final = 10
"""The longest that one statement may take."""

Check = Callable[[Patient], Findings]

OF_POSTGRES: Final[dict[str, Check]] = {
    "encryption": sessions.encryption,
    "sessions": sessions.sessions,
    "limits": sessions.limits,
    "durability": server.durability,
    "clock": server.clock,
    "vacuum": server.vacuum,
    "snapshots": server.snapshots,
    "replication slots": server.slots,
}
OF_THE_OUTBOX: Final[dict[str, Check]] = {
    "roles": outbox.roles,
    "unlogged tables": outbox.unlogged,
    "claims": outbox.claims,
    "workers": outbox.workers,
    "accounts": outbox.accounts,
    "unresolved": outbox.unresolved,
    "on_done": outbox.announcements,
    "key windows": outbox.windows,
    "conflicts": outbox.conflicts,
    "retention": outbox.retention,
    "deliveries": outbox.deliveries,
    "APP KEYs": surroundings.keys,
    "APIs": surroundings.apis,
}
"""Those that make no sense without an outbox."""


class _Brief(psycopg.Cursor[Any]):
    """A cursor each of whose statements is a transaction, and may take no longer than ``SECONDS``.

    Set for the session, that limit would stay with whoever a pooler lends the session to next.
    """

    def execute(self, *statement: Any, **options: Any) -> Self:  # noqa: ANN401 - psycopg's, passed on
        with self.connection.transaction():
            super().execute(f"set local statement_timeout = '{SECONDS}s'".encode())
            return super().execute(*statement, **options)


def examine(settings: Settings) -> list[Finding]:
    """Examine what *settings* lead to; the findings in the order of the checks."""
    found = [*surroundings.broker(settings), *surroundings.on_done_broker(settings)]
    url = settings.database_url.get_secret_value()
    try:
        info = conninfo(url, "ringonce doctor")
        with psycopg.connect(info, autocommit=True, prepare_threshold=None) as conn:
            conn.cursor_factory = _Brief
            found.append(
                fine("database", f"{conn.info.dbname} on PostgreSQL {_version(conn.info.server_version)}")
            )
            patient = Patient(conn, settings)
            found += _examine(OF_POSTGRES, patient)
            versions = _examine({"schema": outbox.schema}, patient)
            found += versions
            if versions[0].level is not Level.PROBLEM:
                found += _examine(OF_THE_OUTBOX, patient)
    except (psycopg.OperationalError, psycopg.InternalError) as error:
        advice = "see whether it runs, and what RINGONCE_DATABASE_URL says"
        found.append(problem("database", f"it cannot be reached: {complaint(error)}", advice))
    return found


def _examine(checks: dict[str, Check], patient: Patient) -> list[Finding]:
    return [finding for name, check in checks.items() for finding in _made(name, partial(check, patient))]


def _made(name: str, check: Callable[[], Findings]) -> list[Finding]:
    try:
        return list(check())
    except InsufficientPrivilege as error:
        advice = "look again as a user with the role outbox_reader"
        return [warning(name, f"not looked at: {complaint(error)}", advice)]
    except QueryCanceled:
        return [
            warning(name, f"not looked at: it took longer than {SECONDS} s", "see what keeps Postgres busy")
        ]


def _version(number: int) -> str:
    return f"{number // 10_000}.{number % 10_000}"
