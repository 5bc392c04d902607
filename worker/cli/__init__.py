"""The command line, ``ringonce``: thin commands over the rooms below; nothing is decided here.

    commands.py      how a command is found, and imported only when it is asked for
    refusals.py      what a refusal looks like: one line on standard error, exit status 2
    database.py      the connection that commands work on
    parameters.py    what several commands take
    printing.py      tables for people, JSON for programs
    dossier.py       how one operation is shown to a person
    demo, worker, sandbox, migrate, account, enqueue, reading, steering, history      the commands

Decisions:
    2026-11-24: each command is imported when it is asked for. Celery, pydantic and starlette each take
    longer to import than most commands take to run.
    2026-11-24: the table of commands holds their summaries too, so that ``--help`` imports none of them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import click

from worker.cli.commands import Commands, Room

__all__ = ["ROOMS", "cli", "main"]

ROOMS: Final = MappingProxyType(
    {
        "demo": Room("demo", "Show the whole thing on this machine, from the first call to the proof."),
        "migrate": Room("migrate", "Put the outbox into the database, or say which version is there."),
        "worker": Room("worker", "Run a worker, with the options of `celery worker`."),
        "sandbox": Room("sandbox", "Run an imitation of the API, to test against: nobody's phone rings."),
        "account": Room("account", "Add, change and list accounts."),
        "enqueue": Room("enqueue", "Write one operation into the outbox."),
        "status": Room("reading", "Count the operations, by account, endpoint and state."),
        "show": Room("reading", "Show all that is on record about one operation."),
        "cancel": Room("steering", "Take a queued operation back."),
        "retry": Room("steering", "Send an operation again under the same key, if that is safe."),
        "reissue": Room("steering", "Do an operation again under a new key, once."),
        "resolve": Room("steering", "Settle an unresolved operation by what you found out."),
        "pause": Room("steering", "Stop claiming an account's operations, until it is resumed."),
        "resume": Room("steering", "Lift an account's pause, and whatever blocks workers have set on it."),
        "history": Room("history", "Say whether commits may be lost; shut claims, or open them again."),
    }
)
"""Every command, in the order of ``--help``."""

EXAMPLES: Final = """\b
Examples:
  ringonce migrate
  ringonce account set default --app-id 5f2c0a7e --rate 20
  ringonce enqueue voice.call '{"from": "+6512345678", "to": ["+919876543210"]}'
  ringonce worker -c 2 -l info
  ringonce status
  ringonce show 1 --reveal

Which database: RINGONCE_DATABASE_URL, in the environment or in .env. Refusals end with status 2.
"""


@click.group(
    cls=Commands,
    rooms=ROOMS,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="ringonce", message="ringonce %(version)s")
def cli() -> None:
    """Call HTTP APIs from a Postgres outbox, each operation executed once: the phone rings once."""


def main() -> None:
    """Run the command that the arguments name, and exit as it does."""
    cli.main(prog_name="ringonce")
