"""Who uses the server of a folder, counted by the kernel: a process that dies has left."""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Sharing:
    """Our place among the users of the server in *folder*, whose locks belong to *user* (None: to us)."""

    def __init__(self, folder: Path, user: pwd.struct_passwd | None) -> None:
        self._folder = folder
        self._user = user
        self._place: int | None = None

    @contextmanager
    def alone(self) -> Iterator[int]:
        """Wait until nobody else starts or stops the server, and let nobody do so meanwhile.

        The lock is handed out to be shared with a child process, which then holds it too.
        """
        lock = self._open("start-stop.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            _unlock(lock)

    @property
    def entered(self) -> bool:
        """Whether we have a place."""
        return self._place is not None

    def enter(self) -> None:
        """Take our place among the users, unless we have it."""
        if self._place is None:
            self._place = self._open("users.lock")
            fcntl.flock(self._place, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Give up our place; True if we had one and nobody else has."""
        if self._place is None:
            return False
        place, self._place = self._place, None
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            _unlock(place)

    def _open(self, name: str) -> int:
        # Root opens files in a folder that a lesser user owns: it must not follow a link laid there.
        lock = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if self._user is not None:
            os.fchown(lock, self._user.pw_uid, self._user.pw_gid)
        return lock


def _unlock(lock: int) -> None:
    # By hand, not only by closing: a child that was forked meanwhile shares the lock.
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
