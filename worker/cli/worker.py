"""``ringonce worker``: Celery's worker, by the app object."""

from __future__ import annotations

from typing import Final

import click

__all__ = ["worker"]

EXAMPLES: Final = """\b
Examples:
  ringonce worker                                   a process for each CPU
  ringonce worker -c 2 -l info
  ringonce worker -c 2 --pool threads               one machine, one process
  ringonce worker -n blue@%h

`celery worker --help` lists the options. `celery -A worker worker` is the same, but finds a file worker.py
in the current folder first.
"""


@click.command(
    epilog=EXAMPLES, options_metavar="[CELERY'S OPTIONS]", context_settings={"ignore_unknown_options": True}
)
@click.option("-D", "--detach", is_flag=True, hidden=True)
@click.argument("options", metavar="", nargs=-1, type=click.UNPROCESSED)
def worker(*, detach: bool, options: tuple[str, ...]) -> None:
    """Run a worker, with the options of `celery worker`.

    It claims what is due, calls the API and records the answers, until it is told to stop (SIGTERM or
    Ctrl-C: calls in flight may end first).
    """
    if detach:  # Celery would start itself anew for that, without this app
        raise click.UsageError("A worker stays in the foreground: let systemd or a container run it.")
    # Only now: the app reads the settings when it is imported, which --help should not need.
    from worker.celery import app  # noqa: PLC0415 - see above
    from worker.fleet import run_worker  # noqa: PLC0415 - see above

    run_worker(app, options)
