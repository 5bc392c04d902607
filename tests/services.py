"""Services that some tests need beside the embedded Postgres, on their usual ports of 127.0.0.1.

Each function returns its service's URL. Where the service is absent the test is skipped, except in CI
(``CI=true``): there it fails, so that nobody takes a run for complete that was not.

Services are shared with whoever else tests on this machine: put a ``unique_name`` before every Redis key
(kombu: ``global_keyprefix``), and call every RabbitMQ queue and exchange by one.
"""

from __future__ import annotations

import os
import secrets
import shutil
from typing import NoReturn

import kombu
import kombu.exceptions
import psycopg
import pytest
import redis

POSTGRES15_URL = "postgresql://postgres@127.0.0.1:5432/postgres"
REDIS_URL = "redis://127.0.0.1:6379/9"
RABBITMQ_URL = "amqp://guest:guest@127.0.0.1:5672//"
PATIENCE = 30
"""Seconds for a service that is there, on a machine that is busy; one that is absent refuses at once."""


def require_postgres15(url: str = POSTGRES15_URL) -> str:
    try:
        with psycopg.connect(url, connect_timeout=PATIENCE) as connection:
            major = connection.info.server_version // 10_000
    except psycopg.OperationalError as error:
        _absent("PostgreSQL 15", url, error)
    if major != 15:
        _absent("PostgreSQL 15", url, f"version {major} answers there")
    return url


def require_redis(url: str = REDIS_URL) -> str:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=PATIENCE, socket_timeout=PATIENCE) as client:
            client.ping()
    except redis.RedisError as error:
        _absent("Redis", url, error)
    return url


def require_rabbitmq(url: str = RABBITMQ_URL) -> str:
    try:
        with kombu.Connection(url, connect_timeout=PATIENCE) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
    except kombu.exceptions.KombuError as error:
        _absent("RabbitMQ", url, error)
    return url


def require_promtool() -> str:
    """The path of Prometheus' tool: a program, not a service, but as easily missing."""
    program = shutil.which("promtool")
    if program is None:
        _absent("promtool", "PATH", "Debian's package prometheus has it")
    return program


def require_redis_server() -> str:
    """The path of Redis itself, for those who kill it."""
    program = shutil.which("redis-server")
    if program is None:
        _absent("redis-server", "PATH", "Debian's package redis-server has it")
    return program


def require_pgbouncer() -> str:
    """The path of PgBouncer, which each test starts for itself."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        _absent("PgBouncer", "PATH", "Debian's package pgbouncer has it")
    return program


def unique_name(prefix: str = "ringonce") -> str:
    """A name that no other test on this machine uses."""
    return f"{prefix}-{secrets.token_hex(6)}"


def _absent(service: str, url: str, why: object) -> NoReturn:
    report = f"{service} is needed at {url}: {why}"
    if os.environ.get("CI") == "true":
        pytest.fail(report, pytrace=False)
    pytest.skip(report)
