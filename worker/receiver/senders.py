"""Whether the sender of a webhook knows the secret of the account that it speaks for.

The secrets of an account are the lines of the file ``<RINGONCE_WEBHOOK_SECRETS_DIR>/<account>``: two of them
while one takes the other's place. The file is read again when it changes.
"""

from __future__ import annotations

import binascii
import hmac
import re
import secrets
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretBytes

from worker.errors import SettingsError

__all__ = ["SHORTEST", "Senders"]

SHORTEST: Final = 16
"""Characters of a secret: no fewer, or it could be guessed."""
LOOK_AGAIN_SECONDS: Final = 1.0
LARGEST_FILE: Final = 16 << 10
MOST_SIGNATURES: Final = 5
"""Of one request: a sender whose secret is changing signs with both."""

_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_NOBODYS: Final = (SecretBytes(secrets.token_bytes(32)),)
"""What is compared where there is no secret, so that it takes as long."""

Mark = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _SecretFile:
    mark: Mark | None
    secrets: tuple[SecretBytes, ...]
    looked_at: float


class Senders:
    """The secrets of all accounts, as they are now. No secret is ever a bare local variable here."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._files: dict[str, _SecretFile] = {}

    def __repr__(self) -> str:
        return f"Senders({self._folder})"

    def knows(self, account: str, shown: Iterable[bytes]) -> bool:
        """Whether one of *shown* is a secret of *account*.

        Raises:
            SettingsError: its file cannot be used.
        """
        known = [
            hmac.compare_digest(each, secret.get_secret_value())
            for each in shown
            for secret in self._secrets(account)
        ]
        return any(known)

    def signed(self, account: str, body: bytes, signatures: Sequence[str]) -> bool:
        """Whether one of *signatures* is the HMAC-SHA256 of *body* under a secret of *account*.

        Each in hexadecimal digits or base64, perhaps behind ``sha256=``.

        Raises:
            SettingsError: the account's file cannot be used.
        """
        shown = [_digest(each) for each in signatures[:MOST_SIGNATURES]]
        known = [hmac.digest(secret.get_secret_value(), body, "sha256") for secret in self._secrets(account)]
        valid = [hmac.compare_digest(each, digest) for digest in known for each in shown]
        return any(valid)

    def _secrets(self, account: str) -> tuple[SecretBytes, ...]:
        if _ACCOUNT.fullmatch(account) is None:
            return _NOBODYS
        known = self._files.get(account)
        now = self._clock()
        if known is None or now - known.looked_at >= LOOK_AGAIN_SECONDS:
            known = _look(self._folder / account, known, now)
            if known.mark is not None:  # or whoever asks for many accounts would fill the memory
                self._files[account] = known
            else:
                self._files.pop(account, None)
        return known.secrets or _NOBODYS


def _look(path: Path, last: _SecretFile | None, now: float) -> _SecretFile:
    try:
        found = path.stat()
        mark = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if last is not None and mark == last.mark:
            return _SecretFile(mark, last.secrets, now)
        with path.open("rb") as file:
            return _SecretFile(mark, _usable(SecretBytes(file.read(LARGEST_FILE)), path), now)
    except FileNotFoundError:
        return _SecretFile(None, (), now)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error


def _usable(raw: SecretBytes, path: Path) -> tuple[SecretBytes, ...]:
    lines = tuple(SecretBytes(each.strip()) for each in raw.get_secret_value().splitlines() if each.strip())
    if not lines:
        raise SettingsError(f"{path} is empty")
    if min(map(len, lines)) < SHORTEST:
        raise SettingsError(f"{path} holds a secret of fewer than {SHORTEST} characters")
    return lines


def _digest(signature: str) -> bytes:
    text = signature.strip().removeprefix("sha256=")
    try:
        return bytes.fromhex(text) if len(text) == 64 else b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""
