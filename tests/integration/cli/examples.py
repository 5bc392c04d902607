"""Every command there is, the examples of its help, and what it makes of words without doing it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import click

from worker.cli import cli


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """The way to *command*, and to all that is below it."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, *path, name)


def examples(path: tuple[str, ...]) -> list[list[str]]:
    """What stands behind ``ringonce`` in the examples of one command, without pipes and redirections."""
    command = followed(path)
    lines = (command.epilog or "").replace("\\\n", " ").splitlines()
    found = [
        line.partition("ringonce ")[2] for line in lines if line.startswith("  ") and "ringonce " in line
    ]
    words = [shlex.split(line) for line in found]
    return [line[: line.index(">")] if ">" in line else line for line in words]


def followed(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        below = command.get_command(click.Context(command), name)
        assert below is not None
        command = below
    return command


def parsed(words: Sequence[str]) -> click.Context:
    """What the command that *words* name makes of the others."""
    left = list(words)
    command: click.Command = cli
    context: click.Context | None = None
    while isinstance(command, click.Group):
        below = command.get_command(click.Context(command), left[0])
        assert below is not None, words
        name, command = left.pop(0), below
        if not isinstance(command, click.Group):
            context = command.make_context(name, left)
    assert context is not None
    return context
