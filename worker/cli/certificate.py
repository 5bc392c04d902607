"""``ringonce certificate``: the proof of one operation, and whether a copy of it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from worker.cli.database import connected
from worker.cli.parameters import OPERATION_ID
from worker.cli.printing import as_json, print_facts, print_json, print_table, visible
from worker.errors import InvalidCertificate, OperationNotFound
from worker.store.certificates import certify, differences, opened, sealed

__all__ = ["certificate"]

DOUBTFUL: Final = 1
"""Exit status: the payload is not what its hash says, or the database tells otherwise than the copy."""

EXAMPLES: Final = """\b
Examples:
  ringonce certificate 42 > 42.json
  ringonce certificate 42 --text
  ringonce certificate --check 42.json
  ringonce certificate --check 42.json --compare

The file is canonical JSON: the certificate and the SHA-256 over it. It holds hashes of payload and answers,
not themselves; in errors and reasons numbers of phones are masked. --check needs no database; --compare asks
the database whether it still says the same.
Status 0: it is whole; 1: it is whole, and something contradicts it; 2: it is not.
"""


@click.command(epilog=EXAMPLES)
@click.argument("operation_id", metavar="[ID]", type=OPERATION_ID, required=False)
@click.option("--text", is_flag=True, help="Print it for people.")
@click.option(
    "--check",
    "copy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Check this copy of one.",
)
@click.option("--compare", is_flag=True, help="With --check: compare it with the database, too.")
@as_json
def certificate(
    *, operation_id: int | None, text: bool, copy: Path | None, compare: bool, as_json: bool
) -> None:
    """Print the proof of one operation, or check a copy of it.

    Its key and APP ID, the hash of the frozen bytes, every attempt with its times, what it means and the hash
    of its answer, and what administrators did.
    """
    if (operation_id is None) == (copy is None) or (compare and copy is None) or (text and copy is not None):
        raise click.UsageError(
            "Give an ID, or --check and a file, perhaps with --compare.", click.get_current_context()
        )
    if copy is not None:
        _check(copy, compare=compare, as_json=as_json)
    elif operation_id is not None:
        _print(operation_id, text=text and not as_json)


def _print(operation_id: int, *, text: bool) -> None:
    with connected(needs="the role outbox_admin") as conn:
        found = certify(conn, operation_id)
    if text:
        _print_text(found)
    else:
        click.echo(sealed(found))
    if found["request"]["recomputed"] == "another":
        click.echo("the payload is not what its hash says: it was changed behind ringonce's back", err=True)
        click.get_current_context().exit(DOUBTFUL)


def _check(copy: Path, *, compare: bool, as_json: bool) -> None:
    try:
        found = opened(copy.read_bytes())
    except OSError as error:
        raise InvalidCertificate(f"{copy} cannot be read: {error.strerror}") from error
    operation_id = found["operation"]["id"]
    told = _differences(found, operation_id) if compare else []
    if as_json:
        print_json({"id": operation_id, "whole": True, "compared": compare, "differences": told})
    else:
        click.echo(f"the certificate of operation {operation_id} is whole, written at {found['written_at']}")
        for each in told:
            click.echo(visible(each))
        if compare and not told:
            click.echo("the database says the same")
    if told:
        click.get_current_context().exit(DOUBTFUL)


def _differences(found: dict[str, Any], operation_id: int) -> list[str]:
    with connected(needs="the role outbox_admin") as conn:
        try:
            return list(differences(found, certify(conn, operation_id)))
        except OperationNotFound:
            return [f"the database has no operation {operation_id} any more"]


def _print_text(found: dict[str, Any]) -> None:
    operation, request, answer = found["operation"], found["request"], found["answer"]
    click.echo(f"certificate of operation {operation['id']}, as of {found['written_at']}")
    print_facts(
        [
            *[(name.replace("_", " "), value) for name, value in operation.items() if name != "id"],
            ("body sent, SHA-256", f"{request['sha256']} (computed again: {request['recomputed']})"),
            ("answer", answer["status"] and f"{answer['status']}, body SHA-256 {answer['body_sha256']}"),
        ]
    )
    print_facts(
        [
            ("legal hold", f"since {each['held_at']}, by {each['held_by']}: {each['reason']}")
            for each in found.get("holds", [])
        ]
    )
    if found["attempts"]:
        click.echo()
        columns = [
            "number",
            "phase",
            "verdict",
            "started_at",
            "finished_at",
            "status",
            "error",
            "body_sha256",
        ]
        print_table(columns, [[each[column] for column in columns] for each in found["attempts"]])
    if found["actions"]:
        click.echo()
        columns = ["name", "acted_at", "acted_by", "reason"]
        print_table(columns, [[each[column] for column in columns] for each in found["actions"]])
