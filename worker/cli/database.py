"""The connection that commands work on, to the database that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import Connection
from psycopg.errors import (
    InsufficientPrivilege,
    InvalidSchemaName,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedTable,
)
from psycopg.rows import TupleRow

from worker.complaint import complaint
from worker.errors import RingonceError, SchemaMismatch, StoreUnavailable
from worker.settings import load_settings
from worker.store.connection import conninfo
from worker.store.sessions import refuse_shared

__all__ = ["connected"]

_OTHER_SCHEMA: Final = (InvalidSchemaName, UndefinedColumn, UndefinedFunction, UndefinedTable)
"""What Postgres says when the outbox is not there, or not the one that this ringonce speaks to. Asked for
the version beforehand it would not tell a producer, who may enqueue all the same."""


@contextmanager
def connected(*, needs: str, alone: str | None = None) -> Iterator[Connection[TupleRow]]:
    """A connection in autocommit, for as long as the block; what Postgres refuses becomes one clear line.

    *needs* says what a user must be given for what the block does, such as "the role outbox_reader"; *alone*,
    what does not go without a session of its own, such as "a migration".

    Raises:
        SettingsError: the settings name no database; or they lead to shared sessions.
        StoreUnavailable: Postgres cannot be reached, or hung up.
        SchemaMismatch: there is no outbox, or another one.
        RingonceError: Postgres refused what the block asked for.
    """
    settings = load_settings()
    url = settings.database_url if alone is None else settings.session_url
    info = conninfo(url.get_secret_value(), "ringonce")
    try:
        with psycopg.connect(info, autocommit=True, prepare_threshold=None) as conn:
            if alone is not None:
                refuse_shared(conn, info, what=alone)
            yield conn
    except _OTHER_SCHEMA as error:
        raise SchemaMismatch(
            f"the database has no outbox that this ringonce knows ({complaint(error)}): "
            "run `ringonce migrate`"
        ) from error
    except InsufficientPrivilege as error:
        raise RingonceError(f"{complaint(error)}: this takes {needs}") from error
    except psycopg.Error as error:
        if _is_away(error):
            raise StoreUnavailable(f"Postgres cannot be reached: {complaint(error)}") from error
        raise RingonceError(f"Postgres refused: {complaint(error)}") from error


def _is_away(error: psycopg.Error) -> bool:
    """Whether Postgres hung up or never answered. A lock timeout is an OperationalError too."""
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(("08", "57P"))
