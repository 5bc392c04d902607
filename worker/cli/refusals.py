"""What a refusal looks like: one line that says what to do.

Whatever is not foreseen here keeps its traceback: a defect must be seen, and reported.
"""

from __future__ import annotations

from typing import Final

import click

from worker.cli.printing import visible
from worker.errors import RingonceError

__all__ = ["refusal_of"]

PREFIX: Final = "ringonce: "


def refusal_of(error: BaseException) -> str | None:
    """The line to show for *error*; None if nobody foresaw it."""
    text = _text(error)
    return None if text is None else PREFIX + visible(" ".join(text.split())).removeprefix(PREFIX)


def _text(error: BaseException) -> str | None:
    match error:
        case RingonceError():
            return str(error)
        case click.UsageError(ctx=click.Context() as context):
            return f"{error.format_message()} `{context.command_path} --help` tells more."
        case click.ClickException():
            return error.format_message()
        case SystemExit(code=str() as line):  # how a worker refuses to start
            return line
        case UnicodeEncodeError():
            return "an argument is not text in UTF-8"
    return None
