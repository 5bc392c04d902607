"""One statement in the spelling of each driver, and what goes into and comes out of it: texts alone.

Texts, because every driver sends them to the letter, whatever an app has taught it about JSON, times, numbers
and enums; Postgres casts them. Casts are spelled ``cast(x as type)``: SQLAlchemy takes ``:x::type`` for no
parameter at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, TypeAlias

__all__ = ["Rows", "Statement", "Texts"]

Texts: TypeAlias = Mapping[str, str | list[str | None] | None]
"""What is filled in, by name: texts, or arrays of texts."""

Rows: TypeAlias = Sequence[Sequence[Any]]
"""What comes back: rows in the order of the columns, which the statement has made texts."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement whose parameters have names."""

    names: tuple[str, ...]
    """Of its parameters, in the order of their numbers."""
    pyformat: str
    """With ``%(name)s``, for psycopg 2 and 3, and for Django on either."""
    numbered: str
    """With ``$1``, for asyncpg."""
    named: str
    """With ``:name``, for SQLAlchemy."""

    @classmethod
    def of(cls, template: str) -> Statement:
        """The statement that *template* is, with its parameters in braces: ``cast({name} as text)``."""
        names = tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name))
        return cls(
            names,
            pyformat=template.format_map({name: f"%({name})s" for name in names}),
            numbered=template.format_map({name: f"${place}" for place, name in enumerate(names, 1)}),
            named=template.format_map({name: f":{name}" for name in names}),
        )
