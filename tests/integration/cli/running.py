"""Running ``ringonce`` inside the test's own process, and reading what it said."""

from __future__ import annotations

import json
from typing import Any, Protocol

from click.testing import CliRunner, Result

from worker.cli import cli

CANARY = "hunter2-canary"
PAYLOAD = '{ "to":["+4930123"] }'
KEY = "0b9c8d3e-7f64-4d0e-9a52-3c1f0de7a111"


class Ringonce(Protocol):
    """Run ``ringonce`` with these arguments."""

    def __call__(self, *arguments: object, given: str | bytes | None = None) -> Result:
        """The result; *given* is its standard input."""


def run(*arguments: object, given: str | bytes | None = None) -> Result:
    words = [str(each) for each in arguments]
    return CliRunner(catch_exceptions=False).invoke(cli, words, input=given, prog_name="ringonce")


def refusal(result: Result) -> str:
    """The one line of a refusal."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("ringonce: ")
    return line


def said(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def printed(result: Result) -> Any:  # noqa: ANN401 - whatever JSON it was
    return json.loads(said(result))
