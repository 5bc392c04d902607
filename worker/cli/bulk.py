"""Doing one thing to many operations: each an action of its own in the audit, and no refusal stops the rest.

What is chosen by filter is counted first, and done only if a person says so, or ``--yes`` has. It is done in
batches, each committed by itself, in the order of the numbers, so that two who do so never wait in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import click
from psycopg import Connection
from psycopg.rows import TupleRow

from worker.cli.asking import ask
from worker.cli.database import connected
from worker.cli.printing import print_json, visible
from worker.errors import OperationNotFound, StateConflict
from worker.operation import State
from worker.store.listing import Filter, matching

__all__ = ["BATCH", "Conn", "Deed", "Told", "do"]

BATCH: Final = 100
"""How many are done before the next commit: some 50 ms, for which nobody else can claim or record them."""
SOME_REFUSED: Final = 1
"""Exit status when some were refused, and the others done."""

Conn = Connection[TupleRow]
Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Deed:
    """What is done to operations, and how it is told."""

    name: str
    """The command."""
    act: Callable[[Conn, int], Told]
    """Does it to one; returns what ``--json`` prints."""
    says: Callable[[Told], str]
    """The same as a line for a person."""
    states: frozenset[State]
    """Those from which it can be done."""
    needs_state: bool = False
    """Whoever chooses by filter must say the state: what he means by "all" would be a guess."""


@dataclass(slots=True)
class Tally:
    """What was done to many, as of the last commit."""

    matched: int
    done: list[Told] = field(default_factory=list)
    refused: list[Told] = field(default_factory=list)


def do(deed: Deed, ids: Sequence[int], wanted: Filter, *, yes: bool, as_json: bool) -> None:
    """Do *deed* to the operations numbered *ids*, or to all that are *wanted*; exit with 1 if one refuses."""
    if bool(ids) == (wanted != Filter()):
        raise click.UsageError("Give IDs, or options that choose, and not both.", click.get_current_context())
    chosen = None if ids else _narrowed(deed, wanted)
    with connected(needs="the role outbox_admin") as conn:
        if len(ids) == 1:
            told = deed.act(conn, ids[0])
            print_json(told) if as_json else click.echo(deed.says(told))
            return
        found = sorted(set(ids) if chosen is None else matching(conn, chosen))
        if found and not (ids or yes):
            ask(f"{deed.name} {_count(len(found))}?")
        tally = Tally(len(found))
        try:
            _do_all(conn, deed, found, tally)
        finally:
            _tell(deed, tally, as_json=as_json)
    if tally.refused:
        click.get_current_context().exit(SOME_REFUSED)


def _narrowed(deed: Deed, wanted: Filter) -> Filter:
    """What of *wanted* it can be done to.

    Raises:
        click.UsageError: nothing, or it is not said what.
    """
    if not wanted.states and deed.needs_state:
        raise click.UsageError(
            f"Say which: --state {' or --state '.join(sorted(deed.states))}.", click.get_current_context()
        )
    if strange := set(wanted.states) - deed.states:
        raise click.UsageError(
            f"There is nothing to {deed.name} about what is {' or '.join(sorted(strange))}.",
            click.get_current_context(),
        )
    return wanted if wanted.states else replace(wanted, states=tuple(sorted(deed.states)))


def _do_all(conn: Conn, deed: Deed, ids: Sequence[int], tally: Tally) -> None:
    for start in range(0, len(ids), BATCH):
        done: list[Told] = []
        refused: list[Told] = []
        with conn.transaction():
            for operation_id in ids[start : start + BATCH]:
                try:
                    with conn.transaction():
                        done.append(deed.act(conn, operation_id))
                except (OperationNotFound, StateConflict) as error:
                    refused.append({"id": operation_id, "refusal": str(error)})
        tally.done += done
        tally.refused += refused


def _tell(deed: Deed, tally: Tally, *, as_json: bool) -> None:
    if as_json:
        print_json(tally)
        return
    for each in tally.refused:
        click.echo(f"operation {each['id']}: {visible(each['refusal'])}", err=True)
    refused = f", {len(tally.refused):,} refused" if tally.refused else ""
    click.echo(f"{deed.name}: {len(tally.done):,} of {_count(tally.matched)} done{refused}")


def _count(number: int) -> str:
    return f"{number:,} operation{'' if number == 1 else 's'}"
