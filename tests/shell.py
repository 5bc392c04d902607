"""Commands of a document, run by a shell as somebody types them; all that they start is ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

STOP_SECONDS: Final = 15.0


@contextmanager
def typed(script: str, *, folder: Path, environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """Run *script*, whose programs may go on until they are ended, in *folder*; what they say is in *log*."""
    with log.open("wb") as told:
        process = subprocess.Popen(
            ["bash", "-euc", f"{script}\nwait"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
            start_new_session=True,
        )
    try:
        yield
    finally:
        _stop(process)
        print(log.read_text(errors="replace"))  # noqa: T201  pytest shows it if the test failed


def with_programs(*folders: Path, **more: str) -> dict[str, str]:
    """This environment without ringonce's settings; found first are programs of *folders*, then its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RINGONCE_")}
    path = os.pathsep.join(map(str, [*folders, Path(sys.executable).parent, kept["PATH"]]))
    return {**kept, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **more}


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, as far as one can know."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started: they are one group, and wait for nobody."""
    others = [each for each in psutil.process_iter() if _is_member(each, process.pid)]
    os.killpg(process.pid, signal.SIGTERM)  # not reaped, so the number is still ours
    _, left = psutil.wait_procs(others, timeout=STOP_SECONDS)
    for each in left:
        each.kill()
    process.wait(STOP_SECONDS)


def _is_member(process: psutil.Process, group: int) -> bool:
    """Whether it is one of *group*, and not the one that leads it."""
    try:
        return process.pid != group and os.getpgid(process.pid) == group
    except ProcessLookupError:
        return False
