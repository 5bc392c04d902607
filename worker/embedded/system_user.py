"""Whom Postgres runs as when root starts it, and where that user can go.

Postgres refuses to run as root. No permission of a folder that is not ours is ever changed: what the
server's user cannot reach is refused, with the folder that is in the way.
"""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from worker.errors import SettingsError


def default_user() -> pwd.struct_passwd:
    """Return the user who gets a cluster that root makes: ``postgres`` if there is one, else ``nobody``."""
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise SettingsError("Postgres does not run as root, and there is no user postgres or nobody to run it as")


def server_user(folder: Path) -> pwd.struct_passwd | None:
    """Return whom Postgres is to run as in *folder*: its owner; None unless we are root: ourselves."""
    if os.geteuid() != 0:
        return None
    owner = folder.stat().st_uid if folder.exists() else 0
    if owner == 0:
        return default_user()
    try:
        return pwd.getpwuid(owner)
    except KeyError:
        raise SettingsError(f"{folder} belongs to the user id {owner}, which has no name here") from None


def refuse_closed_path(path: Path, user: pwd.struct_passwd) -> None:
    """Raise a ``SettingsError`` if *user* cannot get as far as *path*."""
    closed = closed_folder(path, user)
    if closed is not None:
        raise SettingsError(
            f"{path} lies under {closed}, which {user.pw_name} cannot enter, the user as whom root "
            "starts Postgres: choose a folder such as /var/lib/ringonce"
        )


def closed_folder(path: Path, user: pwd.struct_passwd) -> Path | None:
    """Return the topmost existing folder above *path* that *user* cannot enter, judged by its mode bits."""
    groups = os.getgrouplist(user.pw_name, user.pw_gid)
    for folder in reversed([parent for parent in path.parents if parent.exists()]):
        found = folder.stat()
        needed = 0o100 if found.st_uid == user.pw_uid else 0o010 if found.st_gid in groups else 0o001
        if not found.st_mode & needed:
            return folder
    return None


def make_private_folder(folder: Path, user: pwd.struct_passwd | None) -> Path:
    """Make *folder* for *user* alone (None: for us), in a place where anybody may have been before us."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
    owner = os.geteuid() if user is None else user.pw_uid
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or stat.S_IMODE(found.st_mode) != 0o700:
        raise SettingsError(f"{folder} is not a folder of Postgres' user alone: remove it")
    return folder
