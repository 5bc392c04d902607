"""Without a superuser, as on a managed service: an owner installs, and logins with the roles do the rest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.documents import README, snippet
from tests.integration.cli.running import printed, refusal, run, said
from tests.integration.dashboard.visiting import asked
from tests.integration.drain.house import drained, open_test_house
from tests.integration.metrics.scraping import values_of
from tests.postgres import Database, folder_for_clusters, load
from tests.releases import RELEASES
from worker import enqueue, result
from worker.dashboard.logins import Logins, Proxy
from worker.doctor import Level, examine
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.metrics.gauges import Gauges
from worker.sandbox import Sandbox
from worker.settings import load_settings
from worker.store.sessions import check_direct

NEVER = datetime(2099, 1, 1, tzinfo=UTC)
LOGINS = (
    "create role shop_app login; create role shop_worker login; create role ada login; create role rita login"
)
MAY_MAKE_ROLES = "create role owner login createrole; create database shop owner owner"
FIRST_ROLES = "outbox_producer", "outbox_worker", "outbox_reader", "outbox_admin"
"""Those of the first release."""
MADE_FOR_THE_OWNER = "create role {0}; grant {0} to owner with admin option"
OWNS_LITTLE = "create role owner login; create database shop; grant create, connect on database shop to owner"
"""Somebody else owns the database and makes the roles: the least that an owner can have."""


def made(*roles: str) -> str:
    return ";".join([OWNS_LITTLE, *(MADE_FOR_THE_OWNER.format(each) for each in roles)])


ROLES_ARE_THERE = made(*FIRST_ROLES, "outbox_receiver")


@contextmanager
def cluster(statements: str) -> Iterator[tuple[Database, psycopg.Connection]]:
    """One on which nobody is superuser but its provider; its URL is the owner's."""
    with (
        tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as folder,
        EmbeddedPostgres(Path(folder), settings=FAST_AND_UNSAFE) as server,
        psycopg.connect(server.url, autocommit=True) as provider,
    ):
        run_each(provider, statements)
        url = make_conninfo(server.url_of("shop"), user="owner")
        yield Database("shop", url, url), provider


def run_each(conn: psycopg.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        conn.execute(statement.encode())


@pytest.fixture(params=[MAY_MAKE_ROLES, ROLES_ARE_THERE], ids=["createrole", "roles are there"])
def shop(request: pytest.FixtureRequest) -> Iterator[Database]:
    with cluster(f"{request.param};{LOGINS}") as (database, _):
        yield database


def as_user(shop: Database, name: str) -> Database:
    return replace(shop, url=make_conninfo(shop.url, user=name))


async def test_an_owner_without_special_rights_installs_and_logins_with_the_roles_do_the_rest(
    shop: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    def act_as(name: str) -> None:
        monkeypatch.setenv("RINGONCE_DATABASE_URL", as_user(shop, name).url)

    act_as("owner")
    assert "applied to database shop" in said(run("migrate"))
    with psycopg.connect(shop.url, autocommit=True) as owner:
        owner.execute(snippet(README, "logins").encode())
        assert owner.execute("select rolsuper from pg_roles where rolname = current_user").fetchone() == (
            False,
        )
    worker = as_user(shop, "shop_worker")
    assert not check_direct(worker.url, worker.url, listens=True)
    with Sandbox() as api:
        act_as("ada")
        said(run("account", "set", "default", "--app-id", "sandbox", "--base-url", api.url))
        with psycopg.connect(as_user(shop, "shop_app").url, autocommit=True) as app:
            calls = [enqueue(app, "sms.send", {"to": ["+4930123"]}) for _ in range(10)]
            late = enqueue(app, "sms.send", {"to": ["+4930123"]}, not_before=NEVER)
            async with open_test_house(worker) as house:
                assert (await drained(house)).claimed == len(calls)
            assert {result(app, each.id).state for each in calls} == {"succeeded"}
        assert (len(api.ledger), api.executed_twice()) == (len(calls), [])
    said(run("pause", "default", "--reason", "a look"))
    said(run("resume", "default", "--reason", "seen"))
    said(run("cancel", str(late.id), "--reason", "too late"))
    act_as("shop_app")
    assert "permission denied" in refusal(run("status"))
    act_as("rita")
    assert sum(each["count"] for each in printed(run("status", "--json"))) == len(calls) + 1
    problems = {each.check for each in examine(load_settings()) if each.level is Level.PROBLEM}
    assert problems <= {"durability", "APIs"}, "tests do without fsync, and the API has gone"
    with closing(Gauges(as_user(shop, "rita").url)) as gauges:
        assert values_of(gauges.collect())["database_up",] == 1
    proxy = Proxy("X-User", (ip_network("127.0.0.1/32"),))
    with (
        closing(Logins(as_user(shop, "ada").url, proxy)) as logins,
        logins.entered(asked("ada")) as (person, page),
    ):
        assert person.is_admin
        assert page.execute("select outbox.pause('default', 'from the page')").fetchall()


def test_an_owner_who_may_make_no_role_upgrades_once_somebody_has_made_the_new_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with cluster(made(*FIRST_ROLES)) as (shop, provider):
        monkeypatch.setenv("RINGONCE_DATABASE_URL", shop.url)
        load(shop, RELEASES[0].schema, name=str(RELEASES[0]))
        refused = run("migrate")
        assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
        assert refused.stderr.startswith("ringonce: permission denied to create role: this takes a user who")
        run_each(provider, MADE_FOR_THE_OWNER.format("outbox_receiver"))
        assert "applied to database shop" in said(run("migrate"))
        assert "already at" in said(run("migrate"))
