"""The command line, ``ringonce``: thin commands over the rooms below; nothing is decided here.

    commands.py      how a command is found, and imported only when it is asked for
    refusals.py      what a refusal looks like: one line on standard error, exit status 2
    database.py      the connection that commands work on
    parameters.py    what several commands take
    filters.py       the options by which operations are chosen
    bulk.py          doing one thing to many operations
    asking.py        asking a person before much is done
    printing.py      tables for people, JSON for programs
    dossier.py       how one operation is shown to a person
    board.py         what `top` shows
    demo, worker, sandbox, dashboard, receiver, migrate, account, endpoint, enqueue, result, reading, top,
    listing, certificate, views, deliveries, webhook, steering, history, holding, export, retention, purge,
    doctor, probe, metrics, completion       the commands

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
        "demo": Room(
            "demo",
            "Show the whole thing on this machine, from the first call to the proof.",
            extras="sandbox,embedded",
        ),
        "migrate": Room(
            "migrate", "Put the outbox into the database, bring it up to date, or say which version is there."
        ),
        "worker": Room("worker", "Run a worker, with the options of `celery worker`."),
        "sandbox": Room(
            "sandbox", "Run an imitation of the API, to test against: nobody's phone rings.", extras="sandbox"
        ),
        "dashboard": Room(
            "dashboard", "Serve the admin page, for people who have a login of Postgres.", extras="dashboard"
        ),
        "receiver": Room(
            "receiver", "Take the provider's webhooks, and keep what they tell.", extras="receiver"
        ),
        "account": Room("account", "Add, change and list accounts."),
        "endpoint": Room("endpoint", "Add, change and list endpoints: another API is another row."),
        "enqueue": Room("enqueue", "Write one operation into the outbox, or one for each line."),
        "result": Room("result", "Show what became of an operation that you enqueued."),
        "status": Room("reading", "Count the operations, by account, endpoint and state."),
        "top": Room("top", "Show the outbox live."),
        "list": Room("listing", "List operations, the newest first."),
        "show": Room("reading", "Show all that is on record about one operation."),
        "attempts": Room("reading", "Show every attempt of one operation, and what it means."),
        "certificate": Room("certificate", "Print the proof of one operation, or check a copy of it."),
        "unresolved": Room("views", "Show what may have been executed and waits for a person."),
        "backlog": Room("views", "Show what is due and not claimed, by account and lane."),
        "throughput": Room("views", "Show the attempts of the last hour, by minute and verdict."),
        "key-expiring": Room("views", "Show what will be retried in doubt, by the time left to its key."),
        "conflict": Room("views", "Show proof that the API executed a key twice, or what it had refused."),
        "deliveries": Room("deliveries", "Show whom an operation has reached, as webhooks tell."),
        "undelivered": Room("deliveries", "Show what was accepted, and no webhook spoke of in time."),
        "webhook": Room("webhook", "Say which webhooks come, and by when they are missed."),
        "announcement": Room("views", "Show what apps are still to be told of operations that are final."),
        "cancel": Room("steering", "Take a queued operation back."),
        "retry": Room("steering", "Send an operation again under the same key, if that is safe."),
        "reissue": Room("steering", "Do an operation again under a new key, once."),
        "resolve": Room("steering", "Settle an unresolved operation by what you found out."),
        "pause": Room("steering", "Stop claiming an account's operations, until it is resumed."),
        "resume": Room("steering", "Lift an account's pause, and whatever blocks workers have set on it."),
        "history": Room("history", "Say whether commits may be lost; shut claims, or open them again."),
        "hold": Room("holding", "Keep operations, an account or a lane from being scrubbed and deleted."),
        "release": Room("holding", "Lift a legal hold."),
        "export": Room("export", "Write what is final into CSV or Parquet files, before it goes."),
        "retention": Room("retention", "Show what is kept for how long, and what is held."),
        "purge": Room("purge", "Scrub and delete now what retention would in time."),
        "doctor": Room("doctor", "Look for what is wrong, or will be, and say what to do."),
        "probe": Room("probe", "Say whether a worker is on duty, for what starts it anew if it is not."),
        "metrics": Room(
            "metrics", "Tell Prometheus what stands in the outbox, at /metrics.", extras="metrics"
        ),
        "completion": Room("completion", "Print the script by which a shell completes commands and options."),
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
  ringonce list --state failed --error timeout
  ringonce doctor

Which database: RINGONCE_DATABASE_URL, in the environment or in .env. Refusals end with status 2, Ctrl-C
with 130; sandbox, dashboard, receiver, metrics and top, which run until it comes, with 0.
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
