"""Every example in --help is one: its options exist, and what they say can be read. Data has ``--json``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from tests.integration.cli.examples import commands, examples, followed, parsed
from worker.cli import cli

COMMANDS = list(commands(cli))
IN_HELP = sorted(
    {shlex.join(words) for path in COMMANDS if path != ("worker",) for words in examples(path)}
    - {"worker -c 2 -l info"}  # the options of a worker are Celery's; tests of the process run them
)
WITHOUT_DATA = {"demo", "worker", "sandbox", "dashboard", "receiver", "metrics", "completion"}
"""They serve until they are ended, or print a story or a script."""


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_examples_and_says_what_it_does(path: tuple[str, ...]) -> None:
    assert examples(path) != []
    assert followed(path).help
    for parameter in followed(path).params:
        if isinstance(parameter, click.Option) and path[:1] != ("sandbox",):
            assert parameter.help or parameter.hidden, parameter.name


@pytest.mark.parametrize("example", IN_HELP)
def test_every_example_in_help_can_be_parsed(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("42.json", "page.pem"):
        (tmp_path / name).touch()
    assert parsed(shlex.split(example)).args == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_whatever_prints_data_has_json(path: tuple[str, ...]) -> None:
    command = followed(path)
    if not isinstance(command, click.Group) and path[0] not in WITHOUT_DATA:
        assert "--json" in {word for each in command.params for word in each.opts}


def test_an_example_with_an_option_that_is_not_there_would_be_noticed() -> None:
    command = followed(("list",))
    with pytest.raises(click.UsageError):
        command.make_context("list", ["--stat", "failed"])
