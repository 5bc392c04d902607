"""What an error says to people: on one line, and without what Postgres quotes.

Postgres explains a refused row by repeating it. Its DETAIL holds the payload, and with it phone numbers; its
CONTEXT and the line it points at hold parts of either. Those stand in the table, for those who may read it,
and must not reach a log (``observe``) or a terminal by way of an error.
"""

from __future__ import annotations

import psycopg

from worker.plain import one_line

__all__ = ["complaint"]


def complaint(error: BaseException) -> str:
    """What *error* says, with the hint if Postgres gave one; its name, if it says nothing."""
    said = str(error)
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        hint = error.diag.message_hint
        said = f"{error.diag.message_primary}. {hint}" if hint else error.diag.message_primary
    return one_line(said) or type(error).__name__
