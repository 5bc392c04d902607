"""The APP KEYs: found where an operator put them, renewed without a restart, shown nowhere.

The key of an account is the file ``<RINGONCE_SECRETS_DIR>/<account>`` if there is one, else the variable
``RINGONCE_APP_KEY_<ACCOUNT>`` (upper case, other characters ``_``). The file is read again when it changes.

Decisions:
    2026-11-24: the file wins. It is the one that can be renewed while a worker runs, so a variable left
    over from the first installation must not outlive a rotation.
    2026-11-24: a file is known by device, inode, size and mtime in nanoseconds. Kubernetes renews a mounted
    secret by swapping a symlink above the file, which changes the inode and leaves the path; an editor
    that writes in place changes the mtime.
    2026-11-24: two accounts whose names differ only in what becomes ``_`` cannot share a variable: whose
    key it holds is a guess, and a wrong guess blocks an account.
"""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import SecretBytes, SecretStr

from worker.errors import SettingsError
from worker.settings import KEY_PREFIX, Settings

LOOK_AGAIN_SECONDS = 1.0
"""A file is looked at no more often than this, so that a slow disk cannot slow each call down."""
LONGEST_KEY = 4096
"""Bytes. Whatever is longer is not a key, and would not fit a header."""

_FILE_NAME = re.compile(r"[^/\\\0.][^/\\\0]*")
"""Stays in its folder, and passes by what is hidden there, such as Kubernetes' own ``..data``."""

Mark = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _KeyFile:
    """What the file of one account held when it was last looked at."""

    mark: Mark | None = None
    """Device, inode, size and mtime; None: there was no file."""
    key: SecretBytes | None = None
    looked_at: float = float("-inf")


class Credentials:
    """The keys of all accounts, as they are now. Safe to share between threads.

    No key is ever a bare local variable here, because tracebacks may show those.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = settings.secrets_dir
        self._variables = settings.app_keys
        self._clock = clock
        self._files: dict[str, _KeyFile] = {}
        self._known: dict[str, SecretBytes] = {}
        """What the variables hold: an environment does not change."""
        self._readers: dict[str, set[str]] = {}

    def __repr__(self) -> str:
        return f"Credentials({len(self._variables)} variables, folder {self._folder})"

    def basic(self, account: str, app_id: str) -> bytes:
        """The value of the ``Authorization`` header for *app_id* with the present key of *account*.

        Raises:
            SettingsError: no key was found, or it is not usable; says where it was looked for.
        """
        return self._header(account, app_id, look_again_after=LOOK_AGAIN_SECONDS)

    def is_current(self, account: str, app_id: str, used: bytes) -> bool:
        """Whether *used*, which ``basic`` gave out earlier, is what it would give out now.

        Looks at the file at once, however lately it was looked at: a 401 for a key that has been renewed
        since must not block the account. False too if there is no usable key any more.
        """
        try:
            return self._header(account, app_id, look_again_after=0) == used
        except SettingsError:
            return False

    def _header(self, account: str, app_id: str, *, look_again_after: float) -> bytes:
        if ":" in app_id:
            raise SettingsError(
                f"the APP ID of account {account!r} has a colon in it: there its key would begin"
            )
        key = self._from_file(account, look_again_after) or self._from_environment(account)
        return b"Basic " + b64encode(app_id.encode() + b":" + key.get_secret_value())

    def _from_file(self, account: str, look_again_after: float) -> SecretBytes | None:
        if self._folder is None:
            return None
        if not _FILE_NAME.fullmatch(account):
            raise SettingsError(f"the account name {account!r} cannot be a file in {self._folder}")
        file = self._files.get(account, _KeyFile())
        now = self._clock()
        if now - file.looked_at >= look_again_after:
            file = self._files[account] = _look(self._folder / account, file, now)
        return file.key

    def _from_environment(self, account: str) -> SecretBytes:
        variable = variable_of(account)
        self._refuse_shared(variable, account)
        if (known := self._known.get(variable)) is not None:
            return known
        if variable not in self._variables:
            raise SettingsError(
                f"no key for account {account!r}: {variable} is unset, {self._no_file(account)}"
            )
        key = self._known[variable] = _usable(_encoded(self._variables[variable]), variable)
        return key

    def _refuse_shared(self, variable: str, account: str) -> None:
        readers = self._readers.setdefault(variable, set())
        readers.add(account)
        if len(readers) > 1:
            names = " and ".join(repr(reader) for reader in sorted(readers))
            raise SettingsError(
                f"accounts {names} share {variable}: put their keys into RINGONCE_SECRETS_DIR"
            )

    def _no_file(self, account: str) -> str:
        if self._folder is None:
            return "and so is RINGONCE_SECRETS_DIR"
        return f"and there is no file {self._folder / account}"


@lru_cache(maxsize=1024)
def variable_of(account: str) -> str:
    """The variable that may hold the key of *account*."""
    return KEY_PREFIX + re.sub(r"[^A-Za-z0-9]", "_", account).upper()


def _look(path: Path, last: _KeyFile, now: float) -> _KeyFile:
    """What *path* holds now; read only if it is not the file that it was."""
    try:
        found = path.stat()
        mark = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if mark == last.mark:
            return _KeyFile(mark, last.key, now)
        with path.open("rb") as file:
            return _KeyFile(mark, _usable(SecretBytes(file.read(2 * LONGEST_KEY)), str(path)), now)
    except FileNotFoundError:
        return _KeyFile(None, None, now)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error


def _encoded(value: SecretStr) -> SecretBytes:
    """The very bytes of the environment: what is not UTF-8 stands there as surrogates."""
    return SecretBytes(value.get_secret_value().encode("utf-8", "surrogateescape"))


def _usable(raw: SecretBytes, source: str) -> SecretBytes:
    """The key in *raw*, less the line end that editors, ``echo`` and ``kubectl`` leave behind it."""
    key = SecretBytes(raw.get_secret_value().rstrip(b"\r\n"))
    if not key:
        raise SettingsError(f"{source} is empty")
    if len(key) > LONGEST_KEY:
        raise SettingsError(f"{source} is longer than any key ({LONGEST_KEY} bytes)")
    return key
