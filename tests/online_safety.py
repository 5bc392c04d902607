"""What a step of ``deploy/migrations`` must not do: lock big tables for long, or break living workers.

It reads the text of statements; ``integration/migrations`` asks Postgres what each of them locks. What a
function returned that is dropped and made again, and which defaults it had, it cannot know: look that up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Final

from worker.store.steps import Step, statements

__all__ = ["dangers", "never_validated"]

SMALL: Final = {
    "account", "account_meter", "endpoint", "history", "schema_version", "suspicion", "throttle", "worker",
}  # fmt: skip
"""Tables with a row for each of a few things: to read or to write all of one takes no time."""
_LOCK: Final = re.compile(r"lock (?:table )?(outbox\.\w+(?:, ?outbox\.\w+)*) in ([\w ]+) mode")
_OUTSIDE: Final = re.compile(
    r"create (unique )?index concurrently if not exists \w+ on outbox\.\w+"
    r"|drop index concurrently if exists outbox\.\w+$"
    r"|alter table outbox\.\w+ validate constraint \w+$"
    r"|call outbox\.\w+ ?\("
)
_CONSTANT: Final = re.compile(
    r"default (true|false|null|-?\d[\d.]*|'[^']*')(::[\w. ]+)?(?= not null| null|$)"
)
_ALTER: Final = re.compile(r"alter table (?:if exists )?(?:only )?outbox\.(\w+) (.*)")
_INDEX: Final = re.compile(
    r"create (?:unique )?index (?!concurrently)(?:if not exists )?\w* ?on (?:only )?outbox\.(\w+)"
)
_ROWS: Final = re.compile(r"(?:update|delete from|from|join) (?:only )?outbox\.(\w+)")
_MADE: Final = re.compile(r"create (?:unlogged )?table (?:if not exists )?outbox\.(\w+)")
_GONE: Final = re.compile(
    r"drop (table|view|function|procedure|type|sequence) (?:if exists )?outbox\.(\w+)(.*)"
)
_BODY: Final = re.compile(r"\$(\w*)\$.*?\$\1\$", re.DOTALL)
_NOT_VALID: Final = re.compile(r"add constraint (\w+) .*not valid$")


def dangers(step: Step) -> list[str]:
    """Why *step* may not run while workers do; empty if it may."""
    texts = [_plain(each) for part in step.parts for each in statements(part.sql)]
    made = {name for text in texts for name in _MADE.findall(text)}
    found: list[str] = []
    for part in step.parts:
        if part.in_transaction:
            found += _inside(list(statements(part.sql)), step, made)
        elif not _OUTSIDE.match(text := _plain(part.sql)):
            found.append(f"cannot be repeated, or need not be outside of a transaction: {text}")
    return found


def never_validated(steps: Iterable[Step]) -> set[str]:
    """Constraints that are added ``not valid`` and validated by no later statement."""
    waiting: set[str] = set()
    for part in (each for step in steps for each in step.parts):
        for text in map(_plain, statements(part.sql)):
            waiting |= {found[1] for action in _actions(text) if (found := _NOT_VALID.match(action))}
            if not part.in_transaction:
                waiting -= set(re.findall(r"validate constraint (\w+)", text))
    return waiting


def _plain(statement: str) -> str:
    """*statement* in one line and in lower case, without the bodies of functions."""
    return re.sub(r"\s+", " ", _BODY.sub("$$", statement)).strip().lower()


def _inside(block: Sequence[str], step: Step, made: set[str]) -> Iterator[str]:
    """What is wrong with the statements of one transaction; those of a ``do`` count as its own."""
    unfolded = list(_unfolded(block[1:]))  # without its begin
    locks = list(takewhile(lambda text: _locks_as_told(text, step), unfolded))
    for text in unfolded[len(locks) :]:
        for complaint in (*_scans(text, made), *_takes_away(text, step, unfolded)):
            yield f"{complaint}: {text}"


def _locks_as_told(text: str, step: Step) -> bool:
    """Whether it locks tables in a mode that stands in the head of *step*."""
    lock = _LOCK.fullmatch(text)
    names = re.findall(r"\.(\w+)", lock[1]) if lock else []
    return lock is not None and all(f"{name} ({lock[2]})" in step.locks for name in names)


def _unfolded(block: Sequence[str]) -> Iterator[str]:
    for statement in block:
        body = _BODY.search(statement) if statement.lower().startswith("do") else None
        if body is None:
            yield _plain(statement)
        else:
            for inner in statements(body[0].strip("$")):
                yield re.sub(r"^(.* )?(begin|then|loop|else) ", "", _plain(inner))


def _scans(text: str, made: set[str]) -> Iterator[str]:
    """What reads or writes a whole table with locks in its hands, or takes a lock for its own sake."""
    if re.match(r"(lock|vacuum|cluster|reindex|truncate|refresh)\b", text):
        yield "locks everybody out, or not at first, or not as the head tells"
    if re.match(r"set |select (pg_catalog\.)?set_config", text):
        yield "timeouts are those of the migration"
    if " concurrently " in f" {text} ":
        yield "cannot be in a transaction"
    elif re.match(r"drop index", text):
        yield "make it go concurrently, outside of the transaction"
    yield from _goes_through(text, SMALL | made)
    if (altered := _ALTER.match(text)) and altered[1] not in made:
        for action in _actions(text):
            yield from _rewrites(action, small=altered[1] in SMALL)


def _goes_through(text: str, known: set[str]) -> Iterator[str]:
    """What takes the longer the more rows there are, but for tables that are *known* to have few."""
    if (index := _INDEX.match(text)) and index[1] not in known:
        yield "make it concurrently, outside of the transaction"
    if re.match(r"update|delete|insert into \S+ (\([^)]*\) )?(select|with)|with", text):
        for table in set(_ROWS.findall(text)) - known:
            yield f"goes through outbox.{table}: let a procedure do it that commits now and then"


def _rewrites(action: str, *, small: bool) -> Iterator[str]:
    """What is wrong with one action of ``alter table``."""
    if re.match(r"alter (column )?\w+ (set data )?type\b", action):
        yield "a column of another type is a new column"
    elif small:
        return
    elif re.match(r"alter (column )?\w+ set not null", action):
        yield "reads the whole table: add a check that is not valid, and validate it"
    elif re.match(r"set (unlogged|logged|tablespace|access method)", action):
        yield "writes the whole table anew"
    elif re.match(r"validate constraint", action):
        yield "reads the whole table: validate outside of the transaction"
    elif re.match(r"add (constraint|check|unique|primary|foreign|exclude)", action):
        if not re.search(r" not valid$| using index \w+$", action):
            yield "reads the whole table: add it not valid, and validate it outside of the transaction"
    elif re.match(r"add ", action):
        yield from _fills(action)


def _fills(action: str) -> Iterator[str]:
    """What is wrong with a column that is added to a table that may be big."""
    if re.search(r" (check|unique|primary key|references|generated|constraint)\b", action):
        yield "reads the whole table: add the column bare"
    elif " default " in action and not _CONSTANT.search(action):
        yield "writes the whole table anew: only a constant default does not"
    elif " not null" in action and not _CONSTANT.search(action):
        yield "rows that are there have no value"


def _takes_away(text: str, step: Step, block: Sequence[str]) -> Iterator[str]:
    """What workers of older versions may miss, if the step says that it works with them."""
    gone = _GONE.match(text)
    if gone:
        again = re.compile(rf"create (?:or replace )?{gone[1]} outbox\.{gone[2]}\b(.*)")
        callable_too = gone[1] not in ("function", "procedure")
        if any(callable_too or _is_called_alike(gone[3], new[1]) for new in map(again.match, block) if new):
            return
    less = re.compile(r"drop (column )?(?!constraint|default|not)\w|rename")
    takes = gone or re.match(r"alter \w+ \S+ rename", text) or any(map(less.match, _actions(text)))
    if takes and step.workers_from < step.number:
        yield "takes away what older workers may need: works with workers from this version on"


def _is_called_alike(old: str, new: str) -> bool:
    """Whether a function with *new* arguments takes what one with the *old* ones did; they must be there."""
    before, after = _arguments(old), _arguments(new)
    if before is None or after is None or len(after) < len(before):
        return False
    kept = [re.sub(r" (default|=) .*", "", each) for each in after[: len(before)]]
    same = all(now == was or now.endswith(f" {was}") for was, now in zip(before, kept, strict=True))
    return same and all(re.search(r"^out | (default|=) ", each) for each in after[len(before) :])


def _arguments(text: str) -> list[str] | None:
    """What stands in the parentheses that *text* begins with; None: there are none."""
    if not text.strip().startswith("("):
        return None
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == ")" and not depth:
            inside = text[text.index("(") + 1 : place].strip()
            return _split(inside) if inside else []
    return None


def _actions(text: str) -> list[str]:
    """The actions of an ``alter table``, which are set apart by commas outside of parentheses and quotes."""
    altered = _ALTER.match(text)
    return _split(altered[2]) if altered else []


def _split(text: str) -> list[str]:
    """*text* at its commas, but for those in parentheses and quotes."""
    pieces, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == "'"
        depth += 0 if quoted else (character == "(") - (character == ")")
        if character == "," and not depth and not quoted:
            pieces.append("")
        else:
            pieces[-1] += character
    return [each.strip() for each in pieces]
