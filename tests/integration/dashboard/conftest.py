"""A Postgres that asks for passwords; to each module an outbox with something in it, and a page before it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser

from tests.integration.dashboard.desk import Desk, started
from tests.integration.dashboard.serving import PASSWORD, PEOPLE, PG_HBA, Page, served
from tests.integration.dashboard.world import fill
from tests.postgres import SCHEMA, Connect, Database, Server, folder_for_clusters
from tests.waiting import until
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres


def ask_for_passwords(url: str) -> None:
    """Have the server read its pg_hba.conf anew, and wait until it has."""

    def loaded() -> object:
        with psycopg.connect(url, autocommit=True) as conn:
            return conn.execute("select pg_conf_load_time(), current_setting('hba_file')").fetchone()

    before = loaded()
    with psycopg.connect(url, autocommit=True) as conn:
        [hba] = conn.execute("show hba_file").fetchone() or [""]
        Path(hba).write_text(PG_HBA)
        conn.execute("select pg_reload_conf()")
    until(lambda: loaded() != before)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    settings = {**FAST_AND_UNSAFE, "max_connections": "100"}
    with (
        tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as folder,
        EmbeddedPostgres(Path(folder), settings=settings, tcp=True) as embedded,
    ):
        ask_for_passwords(embedded.url_of("postgres"))
        yield Server(embedded.url_of, embedded.tcp_url_of)


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[Database]:
    with server.holding(SCHEMA.read_text(encoding="utf-8"), name=SCHEMA.name) as database:
        with psycopg.connect(database.url, autocommit=True) as conn:
            for name, rights in PEOPLE.items():
                conn.execute(f"create role {name} password '{PASSWORD}' {rights}".encode())
        yield database


@pytest.fixture(scope="module")
def database(server: Server, template: Database) -> Iterator[Database]:
    database = server.create(template=template)
    fill(database.url)
    yield database
    server.drop(database)


@pytest.fixture
def conn(connect: Connect) -> psycopg.Connection:
    return connect()


@pytest.fixture(scope="module")
def page(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with served(database, tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture
def ada(page: Page) -> Iterator[httpx.Client]:
    """An administrator."""
    with page.client("ada") as client:
        yield client


@pytest.fixture
def rita(page: Page) -> Iterator[httpx.Client]:
    """A reader."""
    with page.client("rita") as client:
        yield client


@pytest.fixture(scope="module")  # no longer: playwright keeps a loop in this thread, as other modules do
def chromium() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture
def desk(chromium: Browser, page: Page) -> Iterator[Desk]:
    desk = Desk(chromium, page)
    yield desk
    assert desk.complaints == []
