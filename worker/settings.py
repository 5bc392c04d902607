"""What an installation decides for its workers: read once from the environment, then frozen.

A setting is the environment variable ``RINGONCE_<FIELD>``, or a line of that name in ``.env`` in the
current folder; the environment wins, and an empty value counts as unset. What decides a law (how long a
key lives, how long a call may take) is a row of the database instead: it must be the same for the whole
fleet. No setting puts payloads or answers into a log.

Decisions:
    2026-11-24: a name that begins with RINGONCE_ and is no setting stops the worker. A misspelt
    RINGONCE_CONCURENCY would otherwise be obeyed by nobody and noticed by nobody.
    2026-11-24: connection strings are secrets as a whole. libpq's complaint about a malformed one repeats
    it, password and all, so that complaint is neither shown nor kept as a cause.
    2026-11-24: a password with @, /, # or ? as they are is refused here. Whoever takes the string apart
    later takes the half of it for a host or a port, and says so: "failed to resolve host".
    2026-11-29: what is secret may stand in a file, which the variable with _FILE behind its name names:
    whoever may list containers or processes sees their environments. It is read once, unlike the accounts'
    keys.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from dotenv import dotenv_values
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BeforeValidator,
    DirectoryPath,
    Field,
    FilePath,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.errors import SettingsError

PREFIX = "RINGONCE_"
KEY_PREFIX = "RINGONCE_APP_KEY_"
"""Begins the name of an account's key in the environment (``credentials``)."""

BROKERS = frozenset({"memory", "redis", "rediss", "redis+socket", "amqp", "amqps", "pyamqp"})
"""kombu's transports that wake Celery's loop, and ``memory``, which is made to; under the others a
worker that is killed can take its whole pool along."""
OUTSIDE = BROKERS - {"memory"}
"""Those that an app's workers can hear, too."""
PURGE_AFTER = 2
"""How many retentions long rows are kept, unless ``purge_days`` says how long."""
OWN_QUEUE = "ringonce"
"""The queue of wake-ups (``rope.QUEUE``), whose readers know no task of an app's."""

_NOT_FIELDS = re.compile(r"RINGONCE_(APP_KEY_[A-Z0-9_]+|TEST_\w+)")
"""Other names that are welcome: the accounts' keys, and what only the tests read."""
_ESCAPES = "; in a password write @ / # ? % as %40 %2F %23 %3F %25"
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_\d+_|$)")
"""In names that Kubernetes gives every container when a Service is called ``ringonce`` or so."""


def _dsn(value: SecretStr) -> SecretStr:
    if not _is_dsn(value):
        raise ValueError(
            f"not a connection string libpq can read, such as postgresql://user@host/database{_ESCAPES}"
        )
    return value


def _is_dsn(value: SecretStr) -> bool:
    """Whether libpq can read it, and takes no part of the password for a host or a port."""
    try:
        parts = conninfo_to_dict(value.get_secret_value())
    except ProgrammingError:
        return False
    hosts, ports = (str(parts.get(name) or "").split(",") for name in ("host", "port"))
    return not any("@" in host[1:] for host in hosts) and all(port.isdecimal() for port in ports if port)


def _broker(value: SecretStr) -> SecretStr:
    urls = value.get_secret_value().split(";")
    if not all(url.partition("://")[0] in BROKERS for url in urls):
        raise ValueError(
            "not a broker that wakes Celery's loop: use memory://, redis:// (Valkey's, too) or amqp://"
        )
    if not all(_has_authority(url) for url in urls):
        raise ValueError(f"not a URL of a broker, such as redis://user@host:6379/0{_ESCAPES}")
    return value


def _on_done_broker(value: SecretStr) -> SecretStr:
    """A broker that somebody outside this process hears."""
    if not all(url.partition("://")[0] in OUTSIDE for url in value.get_secret_value().split(";")):
        raise ValueError("not an app's broker (memory:// ends with its process): use redis:// or amqp://")
    return _broker(value)


def _queue(value: str) -> str:
    if value == OWN_QUEUE:
        raise ValueError("that is the queue of ringonce's own wake-ups: name one that the app's workers read")
    return value


def _has_authority(url: str) -> bool:
    """Whether its host and port can be told apart from a password in front of them."""
    try:
        parts = urlsplit(url)
        return parts.port is None or parts.port >= 0
    except ValueError:  # whose text quotes a part of the password
        return False


def _purge_days(value: int, info: ValidationInfo) -> int:
    if value < info.data.get("retention_days", value):  # which may be at fault itself
        raise ValueError("rows are kept no shorter than what they say: no less than RINGONCE_RETENTION_DAYS")
    return value


Dsn = Annotated[SecretStr, AfterValidator(_dsn)]
Broker = Annotated[SecretStr, AfterValidator(_broker)]
OnDoneBroker = Annotated[SecretStr, AfterValidator(_on_done_broker)]
Queue = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,255}$"), AfterValidator(_queue)]
Node = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,240}$")]
"""With "/" and a process id behind it, it is to fit the 255 bytes of ``leased_by``."""
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)]


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


class Settings(BaseSettings):
    """Every setting, its default, and why it is what it is. ``load_settings`` makes one."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        dotenv_filtering="only_existing",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: Dsn
    """Postgres with the outbox schema: a URL or key=value pairs. No default: a guess could be the wrong
    database."""
    direct_url: Dsn | None = None
    """The same database past a pooler that shares sessions: for LISTEN, migrations and the admin page, which
    need one of their own. None by default: ``database_url`` leads to Postgres itself."""
    broker_url: Broker = SecretStr("memory://")
    """What carries wake-ups. In memory by default: Postgres alone is then enough for any number of nodes."""
    on_done_broker_url: OnDoneBroker | None = None
    """The app's own broker, to which the tasks of ``on_done`` go. No default, and never ``broker_url``: which
    broker an app's workers read is the app's to say. Unset, they stay in ``outbox.announcement``."""
    on_done_queue: Queue = "celery"
    """The app's queue there; Celery's own default."""
    secrets_dir: DirectoryPath | None = None
    """Folder with one key file per account. None by default: one account's key fits the environment."""
    webhook_secrets_dir: DirectoryPath | None = None
    """Folder with a file per account that holds the secret of its webhooks, for ``ringonce receiver``. No
    default: without a secret anybody could say that a phone rang."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Calls in flight per process: 400 calls a second if each takes 250 ms, and a tenth of the 1,024 open
    files that most systems allow."""
    drain_seconds: Annotated[float, Field(gt=0, le=900)] = 60
    """A drain ends after this even if more is due. Its wake-up is acknowledged late, so it must end well
    before the broker gives that to someone else: RabbitMQ after 30 minutes, Redis after 60."""
    linger_seconds: Annotated[float, Field(ge=0, le=60)] = 0.5
    """How long a drain waits for more when nothing is due: longer than the pauses of a busy producer, too
    short for anyone to miss the slot it holds."""
    notify: bool = True
    """LISTEN for new operations. Switch it off behind a pooler that shares sessions, if no ``direct_url``
    leads past it: then only polls find them."""
    poll_seconds: Annotated[float, Field(gt=0, le=3600)] = 5
    """How often a bell looks for what is due, jitter apart; what a lost notification may cost. One short
    index scan each time."""
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long finished operations keep payload and answer, which hold phone numbers, and how long webhooks
    are kept, which do, too. Longer than any key lives, since only the row knows that the key was used; a
    month also covers a billing dispute."""
    purge_days: Annotated[int, Field(ge=1, le=7300), AfterValidator(_purge_days)] | None = None
    """How long the rows themselves are kept, scrubbed: so long their keys are known. No shorter than
    ``retention_days``; by default twice as long."""
    connect_seconds: Annotated[float, Field(gt=0, le=60)] = 5
    """How long a connection to the API may take, TLS included: time for two lost packets to be sent again,
    after 1 and after 3 seconds."""
    lease_slack_seconds: Annotated[float, Field(gt=0, le=600)] = 30
    """How long a claimed operation may wait before it is sent (a slow claim, a busy machine); its lease is
    that much longer than its call. Also what a killed worker adds to the wait for a rescue."""
    ca_file: FilePath | None = None
    """Certificates to trust in place of the system's (PEM), for an API behind a company's CA."""
    tls_verify: bool = True
    """Check the API's certificate. Off only for an imitation: whoever answers then learns the APP KEY."""
    log_level: LogLevel = "INFO"
    """Each decision that a person may want to act on; DEBUG adds every claim and every recorded answer."""
    log_format: Literal["console", "json"] = "console"
    """For a person by default; ``json`` writes an object a line, for what collects logs."""
    node: Node = Field(default_factory=socket.gethostname)
    """This machine in views and leases. Its host name is what an operator knows it by."""
    metrics_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Port on which a worker tells Prometheus what it did. None by default: nothing is counted then."""
    metrics_address: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,253}$")] = "127.0.0.1"
    """Address of that port. Only this machine by default: whoever reaches it may read it. Not called
    ..._HOST, which a Kubernetes Service called ringonce would set."""
    traces: bool = False
    """Make an OpenTelemetry span of each call. Off by default: an SDK must be set up to take them."""
    app_keys: dict[str, SecretStr] = Field(default_factory=dict, repr=False)
    """The accounts' keys, by the full name of their variable; not a setting of that name."""

    @property
    def session_url(self) -> SecretStr:
        """Where a connection has a session of its own: ``direct_url``, else ``database_url``."""
        return self.direct_url or self.database_url

    @property
    def linger(self) -> timedelta:
        """``linger_seconds`` as a duration."""
        return timedelta(seconds=self.linger_seconds)

    @property
    def retention(self) -> timedelta:
        """``retention_days`` as a duration."""
        return timedelta(days=self.retention_days)

    @property
    def purge_after(self) -> timedelta:
        """``purge_days`` as a duration."""
        return self.retention * PURGE_AFTER if self.purge_days is None else timedelta(days=self.purge_days)

    @property
    def connect_timeout(self) -> timedelta:
        """``connect_seconds`` as a duration."""
        return timedelta(seconds=self.connect_seconds)

    @property
    def lease_slack(self) -> timedelta:
        """``lease_slack_seconds`` as a duration."""
        return timedelta(seconds=self.lease_slack_seconds)


SETTING_NAMES = tuple(PREFIX + field.upper() for field in Settings.model_fields if field != "app_keys")
"""Every variable that sets a field, in the order of the fields."""
FILE_NAMES = {
    f"{PREFIX}{name.upper()}_FILE": name
    for name, field in Settings.model_fields.items()
    if _is_secret(field.annotation) and name != "app_keys"
}
"""Every variable that names a file with a secret in it, and the field that it sets."""
LONGEST_SECRET = 65_536
"""Bytes. Whatever is longer is no connection string."""


def load_settings(env_file: Path | None = Path(".env")) -> Settings:
    """Read the environment and *env_file*, and freeze what they say.

    Raises:
        SettingsError: one line that names every setting at fault, and no value.
    """
    named = _named(env_file)
    _refuse_unknown(named)
    app_keys = {name: value for name, value in named.items() if name.startswith(KEY_PREFIX)}
    secrets = _secrets_from_files(named)
    try:
        return Settings(_env_file=env_file, app_keys=app_keys, **secrets)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_input=False, include_context=False)]
    raise SettingsError("; ".join(problems))  # out here, so that it drags no values along as its context


def _named(env_file: Path | None) -> dict[str, SecretStr]:
    """Everything called RINGONCE_..., in whatever capitals. Wrapped, since tracebacks show locals."""
    try:
        written = dotenv_values(env_file) if env_file else {}
    except (OSError, UnicodeError) as error:
        trouble = type(error).__name__
    else:
        return {
            name: SecretStr(value)
            for source in (written, os.environ)
            for name, value in source.items()
            if value and name.upper().startswith(PREFIX)
        }
    raise SettingsError(f"{env_file} cannot be read: {trouble}")


def _secrets_from_files(named: dict[str, SecretStr]) -> dict[str, SecretStr]:
    """The fields whose values stand in files, less the line end that editors leave behind them."""
    return {
        field: _secret_in(Path(named[name].get_secret_value()), name, named)
        for name, field in FILE_NAMES.items()
        if name in named
    }


def _secret_in(path: Path, name: str, named: dict[str, SecretStr]) -> SecretStr:
    if (alone := name.removesuffix("_FILE")) in named:
        raise SettingsError(f"{alone} and {name} are both set: which one counts would be a guess")
    try:
        with path.open("rb") as file:
            secret = SecretStr(file.read(LONGEST_SECRET).decode().rstrip("\r\n"))
    except (OSError, UnicodeError) as error:
        trouble = getattr(error, "strerror", None) or "it is not text in UTF-8"
    else:
        if secret:
            return secret
        trouble = "it is empty"
    raise SettingsError(f"{name}: {path} cannot be read: {trouble}")


def _refuse_unknown(names: Iterable[str]) -> None:
    strange = [f"{name} is not a setting{_hint(name)}" for name in sorted(names) if not _is_known(name)]
    if strange:
        raise SettingsError("; ".join(strange))


def _is_known(name: str) -> bool:
    return name in SETTING_NAMES or name in FILE_NAMES or _NOT_FIELDS.fullmatch(name) is not None


def _hint(name: str) -> str:
    capitals = name.upper()
    likely = [capitals] if _is_known(capitals) else get_close_matches(capitals, SETTING_NAMES, 1, cutoff=0.85)
    if likely:
        return f": did you mean {likely[0]}?"
    if _SERVICE_LINK.search(name):
        return ": Kubernetes made it from a Service; set enableServiceLinks: false in the pod"
    return ""


def _problem(detail: ErrorDetails) -> str:
    name = PREFIX + str(detail["loc"][0]).upper()
    if detail["type"] == "missing":
        return f"{name} is not set"
    return f"{name}: {detail['msg'].removeprefix('Value error, ')}"
