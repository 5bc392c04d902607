from __future__ import annotations

import os
import traceback
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr, ValidationError

from worker.errors import SettingsError
from worker.settings import FILE_NAMES, SETTING_NAMES, Settings, load_settings

DSN = "postgresql://app:canary@127.0.0.1/app"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the database is set, and the current folder has no .env."""
    for name in list(os.environ):
        if name.upper().startswith("RINGONCE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", DSN)
    monkeypatch.chdir(tmp_path)


def refusal(env_file: Path | None = Path(".env")) -> str:
    """The one line that load_settings refuses with; fails the test if it shows the canary anywhere."""
    with pytest.raises(SettingsError) as caught:
        load_settings(env_file)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "canary" not in shown
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_database_is_all_that_must_be_set() -> None:
    settings = load_settings()

    assert settings.database_url.get_secret_value() == DSN
    assert settings.broker_url.get_secret_value() == "memory://"
    assert (settings.concurrency, settings.notify, settings.tls_verify) == (100, True, True)
    assert settings.secrets_dir is None


def test_sessions_are_had_where_the_direct_url_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().session_url.get_secret_value() == DSN
    monkeypatch.setenv("RINGONCE_DIRECT_URL", "postgresql://app:canary@127.0.0.2/app")
    assert load_settings().session_url.get_secret_value() == "postgresql://app:canary@127.0.0.2/app"
    monkeypatch.setenv("RINGONCE_DIRECT_URL", "no url: canary")
    assert refusal().startswith("RINGONCE_DIRECT_URL: not a connection string libpq can read")


def test_durations_are_exact() -> None:
    settings = load_settings()

    assert settings.linger == timedelta(milliseconds=500)
    assert settings.retention == timedelta(days=30)
    assert settings.purge_after == timedelta(days=60)
    assert settings.connect_timeout == timedelta(seconds=5)
    assert settings.lease_slack == timedelta(seconds=30)


def test_rows_are_kept_for_twice_the_retention_or_as_long_as_is_said_but_no_shorter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RINGONCE_RETENTION_DAYS", "10")
    assert load_settings().purge_after == timedelta(days=20)
    monkeypatch.setenv("RINGONCE_PURGE_DAYS", "10")
    assert load_settings().purge_after == timedelta(days=10)
    monkeypatch.setenv("RINGONCE_PURGE_DAYS", "9")
    assert refusal() == (
        "RINGONCE_PURGE_DAYS: rows are kept no shorter than what they say: "
        "no less than RINGONCE_RETENTION_DAYS"
    )


def test_a_missing_database_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RINGONCE_DATABASE_URL")
    assert refusal() == "RINGONCE_DATABASE_URL is not set"


def test_an_empty_value_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGONCE_CONCURRENCY", "")
    assert load_settings().concurrency == 100

    monkeypatch.setenv("RINGONCE_DATABASE_URL", "")
    assert refusal() == "RINGONCE_DATABASE_URL is not set"


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("RINGONCE_CONCURRENCY=7\nRINGONCE_NODE=from-file\nFLASK_DEBUG=1\n")
    monkeypatch.setenv("RINGONCE_CONCURRENCY", "8")

    settings = load_settings()

    assert (settings.concurrency, settings.node) == (8, "from-file")


def test_an_unknown_name_is_refused_with_the_likely_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGONCE_CONCURENCY", "canary")
    assert refusal() == "RINGONCE_CONCURENCY is not a setting: did you mean RINGONCE_CONCURRENCY?"


def test_an_unknown_name_in_the_env_file_is_refused() -> None:
    Path(".env").write_text("RINGONCE_COLOUR=canary\n")
    assert refusal() == "RINGONCE_COLOUR is not a setting"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ringonce_concurrency", "RINGONCE_CONCURRENCY"),
        ("RINGONCE_APP_KEY_default", "RINGONCE_APP_KEY_DEFAULT"),
    ],
)
def test_a_name_in_small_letters_is_refused_rather_than_ignored(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "canary")
    assert refusal() == f"{name} is not a setting: did you mean {meant}?"


@pytest.mark.parametrize("name", ["RINGONCE_SERVICE_HOST", "RINGONCE_PORT", "RINGONCE_UI_PORT_80_TCP_ADDR"])
def test_a_service_link_is_refused_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    assert "enableServiceLinks: false" in refusal()


def test_what_is_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RINGONCE_DATABASE_URL")
    for name, url in (("DATABASE_URL", DSN), ("BROKER_URL", "redis://:canary@127.0.0.1/0")):
        (tmp_path / name).write_text(f"{url}\n")
        monkeypatch.setenv(f"RINGONCE_{name}_FILE", str(tmp_path / name))
    settings = load_settings()
    assert settings.database_url.get_secret_value() == DSN
    assert settings.broker_url.get_secret_value() == "redis://:canary@127.0.0.1/0"
    assert "canary" not in repr(settings)


def test_a_file_is_a_way_to_every_secret_and_to_nothing_else() -> None:
    assert set(FILE_NAMES.values()) == {"database_url", "direct_url", "broker_url", "on_done_broker_url"}


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\n", "cannot be read: it is empty"),
        (b"canary\xff", "cannot be read: it is not text in UTF-8"),
        (b"canary", "RINGONCE_DATABASE_URL: not a connection string"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused_without_what_it_holds(
    held: bytes | None, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RINGONCE_DATABASE_URL")
    monkeypatch.setenv("RINGONCE_DATABASE_URL_FILE", str(tmp_path / "url"))
    if held is not None:
        (tmp_path / "url").write_bytes(held)
    assert why in refusal()


def test_a_secret_that_is_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL_FILE", str(tmp_path / "url"))
    assert refusal().startswith("RINGONCE_DATABASE_URL and RINGONCE_DATABASE_URL_FILE are both set")


def test_what_only_the_tests_read_is_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGONCE_TEST_DATABASE_URL", "postgresql://")
    assert load_settings().concurrency == 100


def test_keys_come_from_the_environment_and_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("RINGONCE_APP_KEY_A=file\nRINGONCE_APP_KEY_B=file\nRINGONCE_APP_KEY_C=file\n")
    monkeypatch.setenv("RINGONCE_APP_KEY_B", "environment")
    monkeypatch.setenv("RINGONCE_APP_KEY_C", "")

    keys = {name: key.get_secret_value() for name, key in load_settings().app_keys.items()}

    assert keys == {
        "RINGONCE_APP_KEY_A": "file",
        "RINGONCE_APP_KEY_B": "environment",
        "RINGONCE_APP_KEY_C": "file",
    }


def test_app_keys_itself_cannot_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGONCE_APP_KEYS", '{"RINGONCE_APP_KEY_A": "canary"}')
    assert refusal().startswith("RINGONCE_APP_KEYS is not a setting")


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql+psycopg://app:canary@host/app",
        "mysql://app:canary@host/app",
        "postgresql://app:can ary@host/app?canary=1",
        "host=h password=canary oops",
    ],
)
def test_a_malformed_connection_string_is_refused_and_not_repeated(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", dsn)
    line = refusal()
    assert line.startswith("RINGONCE_DATABASE_URL: not a connection string libpq can read")
    assert "can ary" not in line


@pytest.mark.parametrize("password", ["canary/x", "x@canary", "canary#x", "canary?x", "x/canary", "cana[ry"])
@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("RINGONCE_DATABASE_URL", "postgresql://app:{}@127.0.0.1/app"),
        ("RINGONCE_BROKER_URL", "redis://app:{}@127.0.0.1:6379/0"),
        ("RINGONCE_BROKER_URL", "redis://127.0.0.1:6379/0;redis://app:{}@127.0.0.1:6379/0"),
        ("RINGONCE_BROKER_URL", "amqp://app:{}@127.0.0.1//"),
    ],
)
def test_a_password_with_its_own_slashes_is_taken_whole_or_refused_with_the_remedy(
    setting: str, url: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it would else be taken for a host or a port, and be told when nobody answers there."""
    monkeypatch.setenv(setting, url.format(password))
    try:
        settings: Settings | None = load_settings()
    except SettingsError:
        settings = None
    if settings is None:
        told = refusal()
        assert told.startswith(f"{setting}: ")
        assert "%40" in told
    elif setting == "RINGONCE_BROKER_URL":
        last = settings.broker_url.get_secret_value().rpartition(";")[2]
        assert urlsplit(last).password == password
    else:
        assert conninfo_to_dict(settings.database_url.get_secret_value())["password"] == password


def test_sockets_that_have_no_file_are_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", "host=@abstract,/run/postgresql port=5432, dbname=app")
    assert load_settings().database_url.get_secret_value().startswith("host=@abstract")


@pytest.mark.parametrize(
    "url",
    ["sqla+postgresql://u:canary@h/d", "filesystem://", "pgmq://h", "u:canary@h", "redis://h;sqs://canary"],
)
def test_a_broker_that_does_not_wake_celery_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGONCE_BROKER_URL", url)
    assert refusal().startswith("RINGONCE_BROKER_URL: not a broker that wakes Celery's loop")


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "redis://:pw@h:6379/0",
        "redis+socket:///s",
        "amqp://a;amqp://b",
        "redis://a;redis://b",
    ],
)
def test_a_broker_that_wakes_celery_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGONCE_BROKER_URL", url)
    assert load_settings().broker_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url", ["memory://", "redis://h;memory://", "sqs://canary", "u:canary@h", "redis://u:canary#@h"]
)
def test_a_broker_that_no_app_hears_is_refused_for_on_done(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGONCE_ON_DONE_BROKER_URL", url)
    assert refusal().startswith("RINGONCE_ON_DONE_BROKER_URL: not ")


def test_tasks_of_on_done_go_to_the_queue_of_an_app_and_nowhere_unless_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RINGONCE_BROKER_URL", "redis://h")
    assert load_settings().on_done_broker_url is None
    assert load_settings().on_done_queue == "celery"
    monkeypatch.setenv("RINGONCE_ON_DONE_QUEUE", "ringonce")
    assert "ringonce's own wake-ups" in refusal()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ON_DONE_QUEUE", "two words"),
        ("CONCURRENCY", "0"),
        ("CONCURRENCY", "canary"),
        ("DRAIN_SECONDS", "inf"),
        ("DRAIN_SECONDS", "nan"),
        ("LINGER_SECONDS", "-1"),
        ("POLL_SECONDS", "0"),
        ("RETENTION_DAYS", "0"),
        ("CONNECT_SECONDS", "0"),
        ("LEASE_SLACK_SECONDS", "1e9"),
        ("NOTIFY", "canary"),
        ("TLS_VERIFY", "canary"),
        ("CA_FILE", "/canary"),
        ("SECRETS_DIR", "/canary"),
        ("LOG_LEVEL", "canary"),
        ("LOG_FORMAT", "canary"),
        ("NODE", "two words"),
        ("NODE", "n" * 241),
    ],
)
def test_an_unusable_value_is_refused_by_name_and_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RINGONCE_{name}", value)
    assert refusal().startswith(f"RINGONCE_{name}: ")


def test_every_fault_is_in_the_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGONCE_CONCURRENCY", "0")
    monkeypatch.setenv("RINGONCE_LOG_FORMAT", "xml")

    line = refusal()

    assert "RINGONCE_CONCURRENCY: " in line
    assert "RINGONCE_LOG_FORMAT: " in line


def test_an_env_file_that_is_not_text_is_refused() -> None:
    Path(".env").write_bytes(b"RINGONCE_APP_KEY_A=canary\xff\n")
    assert refusal() == ".env cannot be read: UnicodeDecodeError"


def test_without_an_env_file_only_the_environment_counts() -> None:
    Path(".env").write_text("RINGONCE_CONCURRENCY=7\n")
    assert load_settings(None).concurrency == 100


def test_log_levels_may_be_written_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGONCE_LOG_LEVEL", "debug")
    assert load_settings().log_level == "DEBUG"


def test_settings_are_frozen() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.concurrency = 1  # type: ignore[misc]


def test_no_secret_shows_in_the_text_of_settings() -> None:
    settings = Settings(
        database_url=SecretStr(DSN),
        broker_url=SecretStr("redis://:canary@h/0"),
        app_keys={"RINGONCE_APP_KEY_DEFAULT": SecretStr("canary")},
    )
    assert "canary" not in repr(settings) + str(settings) + repr(settings.model_dump())


def test_no_value_shows_when_a_setting_is_given_in_python() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(database_url=SecretStr(DSN), node="canary of two words")
    assert "canary" not in str(caught.value)


def test_there_is_a_setting_for_each_field_but_the_keys() -> None:
    assert len(SETTING_NAMES) == len(Settings.model_fields) - 1
    assert "RINGONCE_DATABASE_URL" in SETTING_NAMES
    assert "RINGONCE_APP_KEYS" not in SETTING_NAMES
