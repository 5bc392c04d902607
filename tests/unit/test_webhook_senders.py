"""Only who knows the secret of an account may speak for it."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.receiver.senders import Senders

SECRET, OTHER = b"0123456789abcdef-first", b"0123456789abcdef-other"
BODY = b'{"voice_id": "v-1"}'


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def senders(tmp_path: Path, clock: Clock) -> Senders:
    (tmp_path / "default").write_bytes(SECRET + b"\n")
    return Senders(tmp_path, clock)


def signature(secret: bytes) -> str:
    return hmac.new(secret, BODY, hashlib.sha256).hexdigest()


def test_the_secret_is_known_and_no_part_of_it_and_nothing_else(senders: Senders) -> None:
    assert senders.knows("default", [OTHER, SECRET])
    for shown in (b"", SECRET[:-1], SECRET + b"\n", SECRET.upper(), OTHER):
        assert not senders.knows("default", [shown])
    assert not senders.knows("default", [])


def test_the_secret_of_one_account_opens_no_other(senders: Senders, tmp_path: Path) -> None:
    (tmp_path / "brand").write_bytes(OTHER)
    assert senders.knows("brand", [OTHER])
    assert not senders.knows("brand", [SECRET])
    assert not senders.knows("nobody", [SECRET])


@pytest.mark.parametrize("account", ["../default", ".", "", "default/..", "a" * 100, "default\0", ".hidden"])
def test_no_name_leads_out_of_the_folder(senders: Senders, account: str) -> None:
    assert not senders.knows(account, [SECRET])


def test_a_signature_is_read_in_hexadecimal_digits_and_base64(senders: Senders) -> None:
    digits = signature(SECRET)
    for written in (digits, f"sha256={digits}", digits.upper(), b64encode(bytes.fromhex(digits)).decode()):
        assert senders.signed("default", BODY, [written])
    assert senders.signed("default", BODY, [signature(OTHER), digits])


def test_a_signature_of_another_body_or_secret_is_none(senders: Senders) -> None:
    assert not senders.signed("default", BODY + b" ", [signature(SECRET)])
    for written in (signature(OTHER), "", "sha256=", "zz" * 32, "é", SECRET.decode()):
        assert not senders.signed("default", BODY, [written])
    assert not senders.signed("nobody", BODY, [signature(SECRET)])


def test_secrets_change_without_a_restart_and_two_are_known_meanwhile(
    senders: Senders, tmp_path: Path, clock: Clock
) -> None:
    assert senders.knows("default", [SECRET])
    (tmp_path / "default").write_bytes(SECRET + b"\n" + OTHER + b"\n")
    clock.now += 2
    assert senders.knows("default", [SECRET])
    assert senders.knows("default", [OTHER])
    (tmp_path / "default").unlink()
    clock.now += 2
    assert not senders.knows("default", [SECRET])


@pytest.mark.parametrize("held", [b"", b"\n\n", b"short\n", SECRET + b"\nshort\n"])
def test_a_file_without_a_secret_that_is_one_is_refused_and_not_shown(
    senders: Senders, tmp_path: Path, held: bytes
) -> None:
    (tmp_path / "brand").write_bytes(held)
    with pytest.raises(SettingsError) as refused:
        senders.knows("brand", [b"short"])
    assert "0123456789abcdef" not in str(refused.value) + repr(senders)
