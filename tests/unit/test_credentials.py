from __future__ import annotations

import logging
import os
import traceback
from base64 import b64decode
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.clocks import HandSetClock
from worker.credentials import LONGEST_KEY, LOOK_AGAIN_SECONDS, Credentials, variable_of
from worker.errors import SettingsError
from worker.settings import Settings

KEY = "canary:with a colon"


@pytest.fixture
def clock() -> HandSetClock:
    return HandSetClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    return folder


def credentials(
    folder: Path | None = None, clock: HandSetClock | None = None, /, **variables: str | SecretStr
) -> Credentials:
    settings = Settings(
        database_url=SecretStr("postgresql://"),
        secrets_dir=folder,
        app_keys={
            f"RINGONCE_APP_KEY_{name}": value if isinstance(value, SecretStr) else SecretStr(value)
            for name, value in variables.items()
        },
    )
    return Credentials(settings, clock or HandSetClock())


def key_in(header: bytes, app_id: str = "app") -> bytes:
    scheme, _, encoded = header.partition(b" ")
    user, _, key = b64decode(encoded, validate=True).partition(b":")
    assert (scheme, user) == (b"Basic", app_id.encode())
    return key


def refusal(keys: Credentials, account: str, app_id: str = "app") -> str:
    """The line that basic() refuses with; fails the test if it shows a key anywhere."""
    with pytest.raises(SettingsError) as caught:
        keys.basic(account, app_id)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "canary" not in shown
    return str(caught.value)


def replace(path: Path, text: str) -> None:
    """Write a new file and rename it over the old one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.rename(path)


def test_the_header_is_the_app_id_and_the_key_in_base64() -> None:
    assert credentials(DEFAULT="secret").basic("default", "app") == b"Basic YXBwOnNlY3JldA=="


def test_a_key_may_contain_colons_but_an_app_id_may_not() -> None:
    keys = credentials(DEFAULT=KEY)
    assert key_in(keys.basic("default", "app")) == KEY.encode()
    assert "colon" in refusal(keys, "default", "app:id")


@pytest.mark.parametrize(
    ("account", "variable"),
    [
        ("default", "RINGONCE_APP_KEY_DEFAULT"),
        ("eu-west.sms 2", "RINGONCE_APP_KEY_EU_WEST_SMS_2"),
        ("größe", "RINGONCE_APP_KEY_GR__E"),
    ],
)
def test_a_variable_is_the_account_in_capitals_with_underscores(account: str, variable: str) -> None:
    assert variable_of(account) == variable
    keys = credentials(**{variable.removeprefix("RINGONCE_APP_KEY_"): KEY})
    assert key_in(keys.basic(account, "app")) == KEY.encode()


def test_a_line_end_is_not_part_of_a_key(folder: Path) -> None:
    (folder / "filed").write_text(KEY + "\r\n")
    keys = credentials(folder, DEFAULT=KEY + "\n")
    assert key_in(keys.basic("filed", "app")) == KEY.encode()
    assert key_in(keys.basic("default", "app")) == KEY.encode()


def test_spaces_are_part_of_a_key(folder: Path) -> None:
    (folder / "default").write_text(f" {KEY} \n")
    assert key_in(credentials(folder).basic("default", "app")) == f" {KEY} ".encode()


def test_a_key_that_is_not_utf8_is_sent_as_it_is(folder: Path) -> None:
    (folder / "filed").write_bytes(b"\xff\xfe\n")
    keys = credentials(folder, DEFAULT=SecretStr(os.fsdecode(b"\xff\xfe")))
    assert key_in(keys.basic("filed", "app")) == b"\xff\xfe"
    assert key_in(keys.basic("default", "app")) == b"\xff\xfe"


def test_a_file_wins_over_a_variable(folder: Path) -> None:
    (folder / "default").write_text("from the file")
    keys = credentials(folder, DEFAULT="from the variable", OTHER="from the variable")
    assert key_in(keys.basic("default", "app")) == b"from the file"
    assert key_in(keys.basic("other", "app")) == b"from the variable"


def test_a_missing_key_is_refused_with_the_places_it_was_looked_for(folder: Path) -> None:
    assert (
        refusal(credentials(), "default") == "no key for account 'default':"
        " RINGONCE_APP_KEY_DEFAULT is unset, and so is RINGONCE_SECRETS_DIR"
    )
    assert (
        refusal(credentials(folder, OTHER=KEY), "default") == "no key for account 'default':"
        f" RINGONCE_APP_KEY_DEFAULT is unset, and there is no file {folder / 'default'}"
    )


def test_a_rotated_file_is_read_again_without_a_restart(folder: Path, clock: HandSetClock) -> None:
    (folder / "default").write_text("old")
    keys = credentials(folder, clock)
    assert key_in(keys.basic("default", "app")) == b"old"

    replace(folder / "default", "new")
    clock.now += LOOK_AGAIN_SECONDS

    assert key_in(keys.basic("default", "app")) == b"new"


def test_a_file_written_in_place_with_the_same_size_is_read_again(folder: Path, clock: HandSetClock) -> None:
    path = folder / "default"
    path.write_text("old")
    keys = credentials(folder, clock)
    assert key_in(keys.basic("default", "app")) == b"old"

    path.write_text("new")
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    clock.now += LOOK_AGAIN_SECONDS

    assert key_in(keys.basic("default", "app")) == b"new"


def test_a_mounted_secret_is_followed_when_its_folder_is_swapped(folder: Path, clock: HandSetClock) -> None:
    for version in ("..1", "..2"):
        (folder / version).mkdir()
        (folder / version / "default").write_text(version)
        os.utime(folder / version / "default", ns=(1, 1))
    (folder / "..data").symlink_to("..1")
    (folder / "default").symlink_to("..data/default")
    keys = credentials(folder, clock)
    assert key_in(keys.basic("default", "app")) == b"..1"

    (folder / "..data.new").symlink_to("..2")
    (folder / "..data.new").rename(folder / "..data")
    clock.now += LOOK_AGAIN_SECONDS

    assert key_in(keys.basic("default", "app")) == b"..2"


def test_a_file_is_looked_at_no_more_than_once_a_second(folder: Path, clock: HandSetClock) -> None:
    (folder / "default").write_text("old")
    keys = credentials(folder, clock)
    keys.basic("default", "app")

    replace(folder / "default", "new")
    clock.now += LOOK_AGAIN_SECONDS / 2

    assert key_in(keys.basic("default", "app")) == b"old"


def test_a_file_that_has_not_changed_is_not_read_again(
    folder: Path, clock: HandSetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "default").write_text(KEY)
    keys = credentials(folder, clock)
    first = keys.basic("default", "app")

    def no_reading(path: Path, mode: str) -> None:
        raise AssertionError(f"{path} was opened ({mode})")

    monkeypatch.setattr(Path, "open", no_reading)
    clock.now += LOOK_AGAIN_SECONDS

    assert keys.basic("default", "app") == first


def test_a_credential_is_current_until_the_file_changes_however_lately_it_was_read(folder: Path) -> None:
    (folder / "default").write_text("old")
    keys = credentials(folder)
    used = keys.basic("default", "app")
    assert keys.is_current("default", "app", used)

    replace(folder / "default", "new")

    assert not keys.is_current("default", "app", used)
    assert keys.is_current("default", "app", keys.basic("default", "app"))


def test_a_credential_is_not_current_for_another_app_id_or_when_its_key_is_gone(folder: Path) -> None:
    (folder / "default").write_text(KEY)
    keys = credentials(folder)
    used = keys.basic("default", "app")
    assert not keys.is_current("default", "other", used)

    (folder / "default").unlink()

    assert not keys.is_current("default", "app", used)


def test_a_variable_takes_over_when_the_file_is_removed(folder: Path, clock: HandSetClock) -> None:
    (folder / "default").write_text("from the file")
    keys = credentials(folder, clock, DEFAULT="from the variable")
    keys.basic("default", "app")

    (folder / "default").unlink()
    clock.now += LOOK_AGAIN_SECONDS

    assert key_in(keys.basic("default", "app")) == b"from the variable"


@pytest.mark.parametrize("account", ["../default", "a/b", "..", ".", "", "..data", "a\\b", "a\0b"])
def test_an_account_cannot_name_a_file_outside_the_folder(folder: Path, account: str) -> None:
    (folder.parent / "default").write_text(KEY)
    assert "cannot be a file" in refusal(credentials(folder), account)


def test_two_accounts_cannot_share_a_variable_by_accident() -> None:
    keys = credentials(A_B=KEY)
    keys.basic("a-b", "app")

    for account in ("a.b", "a-b"):
        assert refusal(keys, account) == (
            "accounts 'a-b' and 'a.b' share RINGONCE_APP_KEY_A_B: put their keys into RINGONCE_SECRETS_DIR"
        )


def test_files_keep_apart_what_a_variable_cannot(folder: Path) -> None:
    (folder / "a-b").write_text("one")
    (folder / "a.b").write_text("two")
    keys = credentials(folder)
    assert key_in(keys.basic("a-b", "app")) == b"one"
    assert key_in(keys.basic("a.b", "app")) == b"two"


def test_an_empty_key_is_refused(folder: Path) -> None:
    (folder / "default").write_text("\n")
    assert refusal(credentials(folder), "default") == f"{folder / 'default'} is empty"
    assert refusal(credentials(DEFAULT="\n"), "default") == "RINGONCE_APP_KEY_DEFAULT is empty"


@pytest.mark.parametrize("length", [LONGEST_KEY + 2, 100_000])
def test_what_is_too_long_to_be_a_key_is_refused(folder: Path, length: int) -> None:
    (folder / "filed").write_text("canary".ljust(LONGEST_KEY, "x") + "\n".ljust(length - LONGEST_KEY, "x"))
    keys = credentials(folder, DEFAULT="canary".ljust(length, "x"))
    assert "longer than any key" in refusal(keys, "filed")
    assert "longer than any key" in refusal(keys, "default")


def test_the_longest_key_may_end_its_line(folder: Path) -> None:
    (folder / "default").write_text("x" * LONGEST_KEY + "\r\n")
    assert len(key_in(credentials(folder).basic("default", "app"))) == LONGEST_KEY


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(folder: Path) -> None:
    (folder / "default").mkdir()
    assert refusal(credentials(folder), "default") == f"{folder / 'default'} cannot be read: Is a directory"


def test_no_key_shows_in_text_or_logs(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "filed").write_text(KEY)
    keys = credentials(folder, DEFAULT=KEY)

    with caplog.at_level(logging.DEBUG):
        keys.basic("filed", "app")
        keys.basic("default", "app")

    assert "canary" not in repr(keys) + str(keys) + repr(vars(keys)) + caplog.text
