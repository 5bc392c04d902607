"""What an error says to people: on one line, and without what Postgres quotes.

Postgres explains a refused row by repeating it. Its DETAIL holds the payload, and with it phone numbers; its
CONTEXT and the line it points at hold parts of either. Those stand in the table, for those who may read it,
and must not reach a log (``observe``) or a terminal by way of an error.
"""

from __future__ import annotations

from worker.plain import one_line

__all__ = ["complaint"]


def complaint(error: BaseException) -> str:
    """What *error* says, with the hint if Postgres gave one; its name, if it says nothing."""
    return one_line(_said_by_postgres(error) or str(error)) or type(error).__name__


def _said_by_postgres(error: BaseException) -> str | None:
    """Message and hint, as psycopg 2 and 3 (``diag``) and asyncpg have them; None: it was not Postgres."""
    if (diag := getattr(error, "diag", None)) is not None:
        message, hint = diag.message_primary, diag.message_hint
    elif getattr(error, "sqlstate", None) is not None:
        message, hint = getattr(error, "message", None), getattr(error, "hint", None)
    else:
        return None
    return f"{message}. {hint}" if message and hint else message
