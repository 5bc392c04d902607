"""Write every version that ringonce is built and tested with into pyproject.toml.

    python .ci/pins.py              pin what is new, forget what is gone, keep the rest
    python .ci/pins.py --upgrade    move everything to the newest versions that fit together

uv.lock would do the same, but it spells out the address of the registry it was made with; so it stays
out of the repository, and uv makes it anew from these pins, the same on each machine.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
EXPORT = "export --all-groups --all-extras --no-hashes --no-emit-project --no-annotate --no-header"
COMPILE = "pip compile - --universal --python-version 3.11 --no-annotate --no-header"


def main(*, upgrade: bool) -> None:
    """Pin anew; on any failure pyproject.toml is left as it was."""
    before = PYPROJECT.read_text()
    try:
        if upgrade:
            PYPROJECT.write_text(pinned(before, run=[], build=[]))
            uv("lock --upgrade")
        build = uv(COMPILE, given=build_requirements(upgrade=upgrade))
        after = pinned(before, run=uv(EXPORT), build=build)
    except BaseException:
        PYPROJECT.write_text(before)
        raise
    PYPROJECT.write_text(after)


def pinned(text: str, *, run: list[str], build: list[str]) -> str:
    """The text of pyproject.toml with these two lists of pins in the place of those it had."""
    for name, pins in (("constraint-dependencies", run), ("build-constraint-dependencies", build)):
        block = f"{name} = [\n" + "".join(f"  {json.dumps(pin)},\n" for pin in pins) + "]\n"
        text, found = re.subn(rf"(?ms)^{name} = \[\n.*?^\]\n", block, text)
        if found != 1:
            sys.exit(f"pyproject.toml: expected one list named {name}, found {found}")
    return text


def build_requirements(*, upgrade: bool) -> str:
    """What builds the wheel and, unless everything moves, the versions it was pinned to."""
    pyproject = tomllib.loads(PYPROJECT.read_text())
    kept = [] if upgrade else pyproject["tool"]["uv"]["build-constraint-dependencies"]
    editable = "editables"  # hatchling asks for it as soon as an install is editable
    return "\n".join([*pyproject["build-system"]["requires"], editable, *kept])


def uv(arguments: str, *, given: str = "") -> list[str]:
    """The lines that uv prints; its complaints go to the terminal, and end this program."""
    command = ["uv", *arguments.split()]
    ran = subprocess.run(
        command, input=given, stdout=subprocess.PIPE, text=True, check=False, cwd=PYPROJECT.parent
    )
    if ran.returncode:
        sys.exit(ran.returncode)
    return [line for line in ran.stdout.splitlines() if line and not line.startswith("#")]


if __name__ == "__main__":
    main(upgrade="--upgrade" in sys.argv[1:])
