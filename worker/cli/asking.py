"""Asking a person before much is done; the question goes to standard error, beside what is printed."""

from __future__ import annotations

from typing import Final

import click

from worker.errors import RingonceError

__all__ = ["ask", "yes"]

yes: Final = click.option("--yes", is_flag=True, help="Do not ask before much is done.")
"""The option of every command that would ask."""


def ask(question: str) -> None:
    """Return if a person says yes.

    Raises:
        RingonceError: he did not, or nobody is there to be asked.
    """
    try:
        if click.confirm(question, err=True):
            return
    except click.Abort:
        click.echo(err=True)
    raise RingonceError("nothing was done: answer y, or give --yes")
