"""The two outboxes of a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import psycopg
import pytest

from tests.integration.sharding.moving import APP_ID, two_outboxes
from tests.postgres import Database, Server

ACCOUNTS: Final = f"""
    insert into outbox.account (name, app_id) values
        ('default', '{APP_ID}'), ('second', '{APP_ID}'), ('neighbour', 'another');
"""


@pytest.fixture
def outboxes(server: Server, template: Database) -> Iterator[tuple[Database, Database]]:
    with two_outboxes(server, template) as both:
        yield both


@pytest.fixture
def here(outboxes: tuple[Database, Database]) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outboxes[0].url, autocommit=True) as conn:
        conn.execute(ACCOUNTS)
        conn.execute("update outbox.endpoint set settle = '0'")
        yield conn


@pytest.fixture
def there(outboxes: tuple[Database, Database]) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outboxes[1].url, autocommit=True) as conn:
        conn.execute("update outbox.endpoint set settle = '0'")
        yield conn
