"""All that a run needs, in a folder that is gone afterwards, like every process it started."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from tests.acceptance.workers import Redis, environment_of
from tests.chaos.cast import Node
from tests.chaos.proxies import Proxies, Proxy
from tests.chaos.schedule import NODES, SETTLE, Schedule
from tests.integration.http.raw_server import Certificate, make_certificate
from tests.postgres import SCHEMA, folder_for_clusters
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.errors import StoreUnavailable
from worker.sandbox import Credential, Faults, Sandbox, SandboxSettings

ACCOUNTS = {"default": "app-default", "limited": "app-limited"}
"""Account name to APP ID."""
MAX_IN_FLIGHT, RATE, BURST = 6, 20.0, 10
"""Of the account ``limited``."""
WINDOWED = "whatsapp.send"
"""The endpoint whose keys protect for seconds only, as far as the outbox knows."""
DEADLINED = "message.send"
"""The endpoint whose operations expire after a while unless they say otherwise."""
CALL_DEADLINE, LEASE_SLACK = 1.5, 1.0
LATENCY = (0.0, 0.12)

_ENDPOINTS = f"""
    update outbox.endpoint
       set settle = make_interval(secs => {SETTLE}), call_deadline = make_interval(secs => {CALL_DEADLINE}),
           backoff = '00:00:00.2', backoff_cap = '00:00:01', max_attempts = 200, last_try = false,
           key_ttl = make_interval(secs => %(key_ttl)s), key_safety = make_interval(secs => %(key_safety)s);
    update outbox.endpoint set key_ttl = '00:00:12', key_safety = '00:00:02' where name = '{WINDOWED}';
    update outbox.endpoint set default_deadline = '00:00:15' where name = '{DEADLINED}'
"""
_ACCOUNT = """
    insert into outbox.account (name, app_id, base_url, max_in_flight, rate_per_second, burst)
    values (%s, %s, %s, %s, %s, %s)
"""


@dataclass(slots=True)
class Stage:
    """Where a run plays."""

    schedule: Schedule
    postgres: EmbeddedPostgres
    api: Sandbox
    impostor: Sandbox
    """In its place at times, with a certificate that nobody vouches for."""
    database_proxy: Proxy
    api_proxy: Proxy
    broker: Redis | None
    broker_proxy: Proxy | None
    nodes: Mapping[str, Node]
    over: threading.Event = field(default_factory=threading.Event)
    """Set when the run ends, or has failed: nothing new begins."""
    faults: Counter[str] = field(default_factory=Counter)
    """What was done, by organ and kind."""
    refused: Counter[str] = field(default_factory=Counter)
    """Administrators' actions that the outbox refused, or that met no Postgres."""

    @property
    def url(self) -> str:
        """The database, as workers and apps reach it."""
        return f"postgresql://postgres@127.0.0.1:{self.database_proxy.port}/postgres"

    def connect(self, **options: Any) -> psycopg.Connection:  # noqa: ANN401  psycopg's, passed on
        """A connection that no proxy is in the way of.

        Raises:
            psycopg.OperationalError: Postgres is away.
        """
        try:
            url = self.postgres.url
        except StoreUnavailable as error:
            raise psycopg.OperationalError(str(error)) from error
        return psycopg.connect(url, autocommit=True, connect_timeout=10, **options)

    def start_postgres(self) -> None:
        """Start Postgres, and aim the proxy at the port that it takes."""
        self.postgres.start()
        self.database_proxy.aim(_port(self.postgres))


def broker_at_hand(schedule: Schedule) -> Schedule:
    """*schedule* as it can be played here: without a ``redis-server`` the rings are carried in memory.

    Raises:
        RuntimeError: there is none, in CI: nobody may take that for the run that was asked for.
    """
    if schedule.setup.broker != "redis" or shutil.which("redis-server") is not None:
        return schedule
    if os.environ.get("CI") == "true":
        raise RuntimeError("this run needs redis-server")
    return schedule.without_broker()


@contextmanager
def set_stage(schedule: Schedule, logs: Path | None = None) -> Iterator[Stage]:
    """Start everything but the nodes; in the end stop all of it, whatever happened."""
    setup = schedule.setup
    with ExitStack() as leave:
        folder = _folder(leave, logs)
        postgres = leave.enter_context(_postgres(leave))
        certificate = make_certificate(folder, "127.0.0.1")
        api = leave.enter_context(_api(_sandbox(schedule), certificate))
        impostor = leave.enter_context(
            _api(SandboxSettings(), make_certificate(_made(folder / "impostor"), "127.0.0.1"))
        )
        proxies = leave.enter_context(Proxies())
        database_proxy = proxies.to(_port(postgres))
        api_proxy = proxies.to(api.port)
        broker = _broker(leave) if setup.broker == "redis" else None
        broker_proxy = proxies.to(urlsplit(broker.url).port or 0) if broker else None
        _furnish(postgres, f"https://127.0.0.1:{api_proxy.port}", setup.key_ttl)
        environment = _environment(database_proxy, broker_proxy, certificate)
        nodes = {
            name: Node(name, pool, folder, environment) for name, pool in zip(NODES, setup.pools, strict=True)
        }
        for node in nodes.values():
            leave.callback(node.kill)
        yield Stage(schedule, postgres, api, impostor, database_proxy, api_proxy, broker, broker_proxy, nodes)


def _folder(leave: ExitStack, logs: Path | None) -> Path:
    if logs is None:
        return Path(leave.enter_context(tempfile.TemporaryDirectory(prefix="ringonce-chaos-")))
    return _made(logs)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _postgres(leave: ExitStack) -> EmbeddedPostgres:
    folder = leave.enter_context(
        tempfile.TemporaryDirectory(prefix="ringonce-chaos-", dir=folder_for_clusters())
    )
    Path(folder).chmod(0o711)  # root's Postgres runs as another user, who has to pass through
    # What does not wait for the disk is lost in a crash, and not written by chance just before it.
    settings = {**FAST_AND_UNSAFE, "wal_writer_delay": "10s"}
    return EmbeddedPostgres(Path(folder, "postgres"), settings=settings, tcp=True)


def _port(postgres: EmbeddedPostgres) -> int:
    return urlsplit(postgres.tcp_url_of("postgres")).port or 0


def _api(settings: SandboxSettings, certificate: Certificate) -> Sandbox:
    return Sandbox(settings, certfile=certificate.file, keyfile=certificate.key)


def _sandbox(schedule: Schedule) -> SandboxSettings:
    setup = schedule.setup
    faults = Faults(
        chances=setup.chances, latency_seconds=LATENCY, retry_after=setup.retry_after, hang_seconds=5
    )
    settings = SandboxSettings(
        credentials={app_id: Credential(f"key-of-{app_id}") for app_id in ACCOUNTS.values()},
        key_ttl_seconds=setup.key_ttl,
        faults=faults,
        seed=schedule.seed,
    )
    return settings.changed(setup.sandbox)


def _broker(leave: ExitStack) -> Redis:
    broker = Redis()
    leave.callback(broker.kill)
    broker.start()
    return broker


def _furnish(postgres: EmbeddedPostgres, api_url: str, key_ttl: float) -> None:
    safety = {"key_ttl": key_ttl, "key_safety": min(600, key_ttl / 10)}
    with psycopg.connect(postgres.url, autocommit=True) as conn:
        conn.execute(SCHEMA.read_bytes())
    with psycopg.connect(postgres.url) as conn:
        for statement in _ENDPOINTS.split(";"):
            conn.execute(statement.encode(), safety if "%(" in statement else None)
        conn.execute(_ACCOUNT, ["default", ACCOUNTS["default"], api_url, None, None, None])
        conn.execute(_ACCOUNT, ["limited", ACCOUNTS["limited"], api_url, MAX_IN_FLIGHT, RATE, BURST])


def _environment(database: Proxy, broker: Proxy | None, certificate: Certificate) -> dict[str, str]:
    settings: dict[str, object] = {
        "BROKER_URL": f"redis://127.0.0.1:{broker.port}/0" if broker else "memory://",
        "CA_FILE": certificate.file,
        "CONCURRENCY": 20,
        "LEASE_SLACK_SECONDS": LEASE_SLACK,
        "POLL_SECONDS": 0.5,
        **{f"APP_KEY_{name.upper()}": f"key-of-{app_id}" for name, app_id in ACCOUNTS.items()},
    }
    url = f"postgresql://postgres@127.0.0.1:{database.port}/postgres"
    return environment_of(url, **{f"RINGONCE_{name}": value for name, value in settings.items()})
