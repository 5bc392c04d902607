"""A file that is whole or not there: written beside its place, brought to the disk, then put there."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker.errors import StateConflict

__all__ = ["UNFINISHED", "Written", "alone_in", "digest", "written"]

BLOCK: Final = 1 << 20
UNFINISHED: Final = ".part"
"""Ends the name of what is still being written."""


class Written:
    """A file under way; what goes in is counted and hashed. All that pyarrow asks of a file."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "wb")
        self._hash = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, piece: bytes | memoryview) -> int:
        """Append *piece*."""
        self._file.write(piece)
        self._hash.update(piece)
        self.size += len(piece)
        return len(piece)

    def tell(self) -> int:
        """How much was written."""
        return self.size

    def flush(self) -> None:
        """Hand all to the system."""
        self._file.flush()

    def close(self) -> None:
        """Bring all to the disk, once."""
        if not self.closed:
            self.closed = True
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def readable(self) -> bool:
        """It is only written."""
        return False

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It only grows."""
        return False

    @property
    def sha256(self) -> str:
        """Of all that was written, in hexadecimal digits."""
        return self._hash.hexdigest()


@contextmanager
def written(path: Path) -> Iterator[Written]:
    """A file that stands at *path* once the block has ended well, whatever stood there; its owner's alone."""
    beside = path.with_name(path.name + UNFINISHED)
    file = Written(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600))
    try:
        try:
            yield file
        finally:
            file.close()
        beside.replace(path)
    except BaseException:  # it may hold phone numbers, and nobody would look for them there
        beside.unlink(missing_ok=True)
        raise
    _settle(path.parent)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else exports into *folder* meanwhile; it is made if it is not there.

    Raises:
        StateConflict: somebody does.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in made:
        _settle(each.parent)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateConflict(f"another export is writing into {folder}") from None
        yield
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """The SHA-256 of a file, read piece by piece, in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(BLOCK):
            found.update(piece)
    return found.hexdigest()


def _settle(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
