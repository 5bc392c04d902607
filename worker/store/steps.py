"""The steps from one version of the outbox to the next: ``NNNN_name.sql``, one file a version, read in order.

    -- What the step brings, in a line.
    --
    -- Works with workers from: 3               the oldest version whose workers go on working after it
    -- Locks: account (access exclusive)        what was there before, whose writers may have to wait
    -- Outside of a transaction: operation_by_x the indexes that are made concurrently, if there are any

    create index concurrently if not exists operation_by_x on outbox.operation (x);

    begin;
    lock table outbox.account in access exclusive mode;
    alter table outbox.account add column ...
    insert into outbox.schema_version (version, compatible_from) values (5, 3);
    commit;

What stands between ``begin`` and ``commit`` is all or nothing; the last such block writes the version. It
begins by locking the tables that it needs to itself, ``operation`` before ``attempt`` (``migrate`` says why).
What stands outside is run by itself, cannot be undone, and must be such that it can be repeated, and so must
any block before the last: a step that was interrupted is begun again. ``psql -v ON_ERROR_STOP=1 -f`` runs the
same file, without retries, and without limits: give it ``PGOPTIONS='-c lock_timeout=400ms'``.

Decisions:
    2026-11-29: a step has no way back. Undoing one under a live fleet needs a step of its own, so it is one.
    2026-11-29: a file brings its own begin and commit, as schema.sql does: what is all or nothing can be seen
    in it, and is so for psql too.
    2026-11-29: what a step locks is told in its head, where a reviewer reads it; a test compares it with
    what Postgres says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import takewhile
from pathlib import Path
from typing import Final

from worker.errors import SchemaMismatch

__all__ = ["Part", "Step", "find_steps", "read_steps", "statements"]

_PACKAGE: Final = files("worker")
_CHECKOUT: Final = Path(__file__).parents[2]
_FILE: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_HEAD: Final = {
    "works_from": "Works with workers from",
    "locks": "Locks",
    "outside": "Outside of a transaction",
}
_INDEX: Final = re.compile(
    r"create\s+(?:unique\s+)?index\s+concurrently\s+if\s+not\s+exists\s+(\w+)", re.IGNORECASE
)
_LOCK: Final = re.compile(r"lock\b", re.IGNORECASE)
_TOKEN: Final = re.compile(
    r"(?P<comment>--[^\n]*|/\*.*?\*/)"
    r"|(?P<end>;)"
    r"|'(?:[^']|'')*'|\"[^\"]*\"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|[^-/'\"$;]+|.",
    re.DOTALL,
)
"""Knows no ``E'\\''`` and no ``begin atomic``: the house writes neither."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is sent to Postgres at once: a transaction, or one statement that cannot be in one."""

    sql: str
    in_transaction: bool
    locking: str = ""
    """What a transaction begins with: it takes its locks."""
    index: str | None = None
    """The index that it makes concurrently."""


@dataclass(frozen=True, slots=True)
class Step:
    """The way from the version before to *number*."""

    number: int
    name: str
    brings: str
    """What it is for, in a line."""
    workers_from: int
    """The oldest version whose workers go on working after it."""
    locks: str
    """Which tables, and how, in the words of its head."""
    outside_of_a_transaction: tuple[str, ...]
    """The indexes that it makes concurrently."""
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        """The name of its file."""
        return f"{self.number:04}_{self.name}"


def find_steps(package: Traversable = _PACKAGE, checkout: Path = _CHECKOUT) -> Traversable:
    """The folder of steps: the package's own, else the one of the checkout around it.

    Raises:
        SchemaMismatch: this installation has lost it.
    """
    for folder in (package / "migrations", checkout / "deploy" / "migrations"):
        if folder.is_dir():
            return folder
    raise SchemaMismatch("this installation has no migrations: install ringonce anew")


def read_steps(folder: Traversable) -> tuple[Step, ...]:
    """Every step in *folder*, in the order of their numbers.

    Raises:
        SchemaMismatch: a file is not a step, or two have one number.
    """
    texts = {each.name: each.read_text("utf-8") for each in folder.iterdir() if each.name.endswith(".sql")}
    steps = [_read(name, text) for name, text in sorted(texts.items())]
    if len({each.number for each in steps}) < len(steps):
        raise SchemaMismatch("two migrations have one number: " + ", ".join(map(str, steps)))
    return tuple(steps)


def statements(text: str) -> Iterator[str]:
    """The statements of *text*, without the comments around and between them."""
    statement = ""
    for token in _TOKEN.finditer(text):
        if token["end"]:
            yield statement.strip()
            statement = ""
        elif not token["comment"]:
            statement += token[0]
    if statement.strip():
        yield statement.strip()


def _read(name: str, text: str) -> Step:
    named = _FILE.fullmatch(name)
    if named is None:
        raise SchemaMismatch(f"migration {name} is not called NNNN_name.sql")
    told = {key: _told(text, words) for key, words in _HEAD.items()}
    step = Step(
        number=int(named[1]),
        name=named[2],
        brings=text.partition("\n")[0].removeprefix("--").strip(),
        workers_from=int(told["works_from"]) if told["works_from"].isdecimal() else 0,
        locks=told["locks"],
        outside_of_a_transaction=tuple(re.findall(r"\w+", told["outside"])),
        parts=tuple(_parts(text)),
    )
    if complaint := _complaint(step):
        raise SchemaMismatch(f"migration {name}: {complaint}")
    return step


def _told(text: str, words: str) -> str:
    found = re.search(rf"^-- {words}: (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _parts(text: str) -> Iterator[Part]:
    block: list[str] | None = None
    for statement in statements(text):
        if statement.lower() == "begin":
            block = []
        elif statement.lower() == "commit" and block is not None:
            yield _transaction([*block, "commit"])
            block = None
        elif block is not None:
            block.append(statement)
        else:
            index = _INDEX.match(statement)
            yield Part(statement, in_transaction=False, index=index[1] if index else None)
    if block is not None:
        yield _transaction(block)  # which never commits: _complaint refuses it


def _transaction(block: Sequence[str]) -> Part:
    locks = takewhile(_LOCK.match, block)
    return Part(";\n".join(["begin", *block]), in_transaction=True, locking=";\n".join(["begin", *locks]))


def _complaint(step: Step) -> str | None:
    """What is wrong with the form of *step*."""
    version = rf"into outbox\.schema_version \([^)]*\) values \({step.number}\b"
    if not 1 <= step.workers_from <= step.number:
        return 'its head has no "Works with workers from: NUMBER"'
    if not step.locks or not step.brings:
        return "its head does not say what it brings and locks"
    if not step.parts or not step.parts[-1].in_transaction or not re.search(version, step.parts[-1].sql):
        return f"its last transaction does not write version {step.number}"
    if any(each.in_transaction and not each.sql.endswith(";\ncommit") for each in step.parts):
        return "a transaction of it does not commit"
    made = tuple(each.index for each in step.parts if each.index)
    if made != step.outside_of_a_transaction:
        return f"its head does not name what it makes outside of a transaction: {', '.join(made) or 'none'}"
    return None
