"""The group of all commands: each is imported when it is asked for, and refusals end in one line."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from worker.cli.refusals import PREFIX, refusal_of
from worker.errors import SettingsError

__all__ = ["Commands", "Room"]

REFUSED: Final = 2
"""Exit status of every refusal, as of a bad option."""
UNWRITTEN: Final = 1
"""Exit status when the output could not be written; what was asked for may be done."""
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells report it."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where a command lives, and what it does."""

    module: str
    """In ``worker.cli``; the command is the member that bears its name, as Python can write it."""
    summary: str
    """The first line of its help; a test keeps the two in step."""
    extras: str = ""
    """Of ringonce's extras those that it needs, as pip takes them."""


class Commands(click.Group):
    """A group that imports its commands one by one, and shows no traceback for what it foresaw."""

    def __init__(self, *args: Any, rooms: Mapping[str, Room], **options: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*args, **options)
        self.rooms = rooms

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, as the table orders them."""
        del ctx
        return list(self.rooms)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None if there is none of that name.

        Raises:
            SettingsError: it needs a package that is not installed.
        """
        del ctx
        room = self.rooms.get(cmd_name)
        if room is None:
            return None
        try:
            module = import_module(f"worker.cli.{room.module}")
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package == "worker" or not room.extras:  # a defect, to be seen with its traceback
                raise
            raise SettingsError(
                f"`ringonce {cmd_name}` needs {package}, which is not installed: "
                f"pip install 'ringonce[{room.extras}]'"
            ) from error
        command = getattr(module, _member(cmd_name))
        assert isinstance(command, click.Command)  # noqa: S101 - the table is wrong, not the user
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """The commands and options that begin so, without importing any: a shell asks with each Tab."""
        rooms = [(name, room) for name, room in self.rooms.items() if name.startswith(incomplete)]
        items = [CompletionItem(name, help=room.summary) for name, room in rooms]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, without importing what it names."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, room.summary) for name, room in self.rooms.items()])

    def main(  # type: ignore[override]  # never returns, in whatever mode
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,  # noqa: ANN401 - click's
    ) -> None:
        """Run and exit: 0, 2 after a refusal, 130 after Ctrl-C, 1 when nobody takes the output.

        What runs until Ctrl-C ends it exits with 0 then, and a worker with Celery's 1: neither lets that pass
        up to here.
        """
        extra["standalone_mode"] = False
        if sys.stdout is None:  # whoever started this has closed it: nobody wants to read anything
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
        try:
            status = super().main(args, prog_name, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            status = REFUSED
        except click.Abort:
            status = INTERRUPTED
        except (Exception, SystemExit) as error:
            if isinstance(error, OSError) and _give_up_output():
                click.echo(f"{PREFIX}the output cannot be written: {error.strerror}", err=True)
                sys.exit(UNWRITTEN)
            if (line := refusal_of(error)) is None:
                raise
            click.echo(line, err=True)
            status = REFUSED
        sys.exit(status)


def _member(command: str) -> str:
    """``key_expiring`` for ``key-expiring``, ``list_`` for ``list``."""
    return command.replace("-", "_") + "_" * hasattr(builtins, command)


def _give_up_output() -> bool:
    """Whether standard output takes nothing any more; then what it still holds is dropped."""
    try:
        sys.stdout.write("\n")  # not only a flush: nothing is left to flush where Python does not buffer
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # else it fails once more when Python ends
        return True
    return False
