"""Shell completion: the scripts are what shells can read, and Tab offers what there is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli.running import refusal, run, said
from worker.cli import ROOMS

SCRIPT = str(Path(sys.executable).with_name("ringonce"))


def offered(words: str, *, shell: str = "bash") -> list[str]:
    """What completion offers for the last word of *words*, by the protocol that the scripts speak."""
    line = words.split(" ")
    ran = subprocess.run(
        [SCRIPT],
        env=os.environ
        | {"_RINGONCE_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(line) - 1)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [each.partition(",")[2] for each in ran.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_ringonce_itself(shell: str) -> None:
    script = said(run("completion", shell))
    assert f"_RINGONCE_COMPLETE={shell}_complete" in script
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=60)


def test_another_shell_is_refused_by_name() -> None:
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in refusal(run("completion", "csh"))


def test_tab_offers_every_command() -> None:
    assert offered("ringonce ") == list(ROOMS)


def test_tab_offers_commands_options_and_the_words_they_take() -> None:
    assert offered("ringonce un") == ["unresolved", "undelivered"]
    assert offered("ringonce account ") == ["list", "set"]
    assert {"--state", "--provider-id", "--after"} <= set(offered("ringonce list --"))
    assert offered("ringonce list --state unr") == ["unresolved"]
    assert "--no-last-try" in offered("ringonce endpoint set x --no")


def test_tab_imports_none_of_the_commands_it_offers() -> None:
    program = (
        "import sys; from worker.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ
        | {"_RINGONCE_COMPLETE": "bash_complete", "COMP_WORDS": "ringonce ", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "plain,list" in ran.stdout
    assert {"celery", "rich", "worker.cli.listing"} & set(ran.stderr.split()) == set()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_by_the_script(tmp_path: Path) -> None:
    (tmp_path / "ringonce.bash").write_text(said(run("completion", "bash")))
    lines = (
        "source ringonce.bash",
        "COMP_WORDS=(ringonce key); COMP_CWORD=1",
        "_ringonce_completion ringonce",
        'echo "${COMPREPLY[@]}"',
    )
    ran = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(SCRIPT).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout.split() == ["key-expiring"], ran.stderr
