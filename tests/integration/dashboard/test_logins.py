"""Who is let into the admin page, and in whose name it then works."""

from __future__ import annotations

from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.documents import README, adapted, snippet
from tests.integration.dashboard.serving import PASSWORD, PATIENCE, Page, do, served, text
from tests.postgres import Database
from tests.shell import free_ports, typed, with_programs
from tests.waiting import until
from worker.embedded import binaries

PROXY = ("--proxy-header", "X-Forwarded-User", "--proxy-from")


def who_paused(conn: psycopg.Connection) -> tuple[object, ...]:
    row = conn.execute(
        "select acted_by, acted_for, name, account from outbox.action order by id desc limit 1"
    )
    return row.fetchone() or ()


@pytest.mark.parametrize("path", ["/", "/operations", "/operations/1", "/unresolved", "/throughput"])
def test_nobody_is_shown_anything_without_a_login(page: Page, path: str) -> None:
    with page.client(None) as nobody:
        answer = nobody.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert "default" not in text(answer)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ada", "wrong"),
        ("nobody", PASSWORD),
        ("ada", ""),
        ("", PASSWORD),
        ("ida", PASSWORD),
        ("ada' --", "x"),
    ],
)
def test_a_login_that_postgres_refuses_is_refused(page: Page, name: str, password: str) -> None:
    with page.client(name, password) as somebody:
        assert somebody.get("/").status_code == 401


@pytest.mark.parametrize(
    "sent", ["Basic", "Basic !!!", "Basic YWRh", "Bearer abc", "Basic AAA=", "Basic \xff"]
)
def test_a_header_that_is_no_login_is_refused(page: Page, sent: str) -> None:
    answer = httpx.get(
        page.address, headers={b"authorization": sent.encode("latin-1")}, trust_env=False, timeout=PATIENCE
    )
    assert answer.status_code == 401


def test_a_password_that_was_right_for_one_is_not_right_for_another(page: Page) -> None:
    with page.client("ada") as ada, page.client("ada", "wrong") as guest:
        assert [each.get("/").status_code for each in (ada, guest, ada)] == [200, 401, 200]


def test_a_user_of_postgres_without_a_role_of_the_outbox_is_not_allowed(page: Page) -> None:
    with page.client("stranger") as stranger:
        answer = stranger.get("/")
    assert answer.status_code == 403
    assert "neither of the roles outbox_reader and outbox_admin" in text(answer)


def test_a_password_that_postgres_did_not_ask_for_proves_nothing(page: Page) -> None:
    with page.client("trusted", "anything") as anybody:
        answer = anybody.get("/")
    assert answer.status_code == 403
    assert "your" in text(answer)
    assert "proves nothing" in text(answer)


def test_a_password_in_the_environment_lets_nobody_in(page: Page) -> None:
    """libpq would fill an empty one in from elsewhere."""
    with page.client("page", "") as somebody:
        assert somebody.get("/").status_code == 401


def test_whoever_was_made_a_user_as_the_readme_says_is_let_in(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    conn.execute(f"create role founder superuser login password '{PASSWORD}'".encode())
    url = make_conninfo(database.tcp_url, user="founder", password=PASSWORD)
    [port] = free_ports(1)
    ours = {"role ada": "role eve", "…": PASSWORD, "ringonce dashboard": f"ringonce dashboard --port {port}"}
    script, log = adapted(snippet(README, "page"), ours), tmp_path / "log"
    environment = with_programs(binaries(), RINGONCE_DATABASE_URL=url)
    with typed(script, folder=tmp_path, environment=environment, log=log):
        until(lambda: f"http://127.0.0.1:{port}" in log.read_text(), told=log.read_text)
        with Page(f"http://127.0.0.1:{port}", log).client("eve") as eve:
            answer = eve.get("/")
    assert answer.status_code == 200
    assert 'eve <span class="quiet">admin</span>' in answer.text


def test_an_action_is_in_the_audit_under_the_name_of_who_logged_in(
    ada: httpx.Client, conn: psycopg.Connection
) -> None:
    assert do(ada, "/accounts/default/pause", reason="wrong caller id").status_code == 303
    assert who_paused(conn) == ("ada", None, "pause", "default")


def test_a_reader_reads_and_changes_nothing(rita: httpx.Client, conn: psycopg.Connection) -> None:
    before = who_paused(conn)
    for path in ("/", "/operations", "/operations/1", "/unresolved", "/throughput"):
        assert rita.get(path).status_code == 200
    for path in ("/accounts/default/pause", "/operations/1/cancel"):
        assert rita.get(path).status_code == 403
        assert rita.post(path, data={"reason": "why"}).status_code == 403
    assert rita.post("/operations/1/reveal").status_code == 403
    assert "Pause" not in rita.get("/").text
    assert who_paused(conn) == before


def test_a_trusted_proxy_names_its_person_and_the_audit_holds_both(
    database: Database, tmp_path: Path, conn: psycopg.Connection
) -> None:
    with served(database, tmp_path, *PROXY, "127.0.0.0/8") as page, page.client(None) as client:
        ida, ron = ({"X-Forwarded-User": name} for name in ("ida", "ron"))
        assert "ida admin" in " ".join(
            client.get("/", headers=ida).text.replace('<span class="quiet">', "").split()
        )
        client.headers.update(ida)
        assert do(client, "/accounts/campaign/pause", reason="by the proxy").status_code == 303
        assert who_paused(conn) == ("page", "ida", "pause", "campaign")
        assert client.get("/accounts/campaign/resume", headers=ron).status_code == 403
        assert [
            client.get("/", headers={"X-Forwarded-User": name}).status_code
            for name in ("stranger", "nobody", "")
        ] == [
            403,
            403,
            401,
        ]
        twice = httpx.Headers([("X-Forwarded-User", "ron"), ("X-Forwarded-User", "ida")])
        assert httpx.get(page.address, headers=twice, trust_env=False, timeout=PATIENCE).status_code == 401


NAMES = {
    "127.0.0.1": True,
    "localhost": True,
    "LocalHost.:8090": True,
    "[::1]:8090": True,
    "192.0.2.7:80": True,
    "admin.example.com": True,
    "Admin.Example.Com.:443": True,
    "evil.example": False,
    "evil.example:8090": False,
    "admin.example.com.evil.example": False,
    "127.0.0.1.evil.example": False,
    "evil.example#127.0.0.1": False,
    "[evil.example]": False,
    "": False,
}


def test_a_site_that_has_its_own_name_lead_to_the_page_is_turned_away_whomever_it_claims_to_be(
    database: Database, tmp_path: Path
) -> None:
    options = (*PROXY, "127.0.0.1", "--allowed-host", "admin.example.com")
    with served(database, tmp_path, *options) as page, page.client(None) as browser:
        told = {
            name: browser.get("/", headers={"Host": name, "X-Forwarded-User": "ida"}).status_code
            for name in NAMES
        }
        assert told == {name: 200 if is_ours else 421 for name, is_ours in NAMES.items()}
        stranger = browser.get("/static/style.css", headers={"Host": "evil.example"})
        assert (stranger.status_code, "--allowed-host" in stranger.text) == (421, True)
        assert stranger.headers["x-content-type-options"] == "nosniff"


def test_a_header_from_elsewhere_than_the_proxy_counts_for_nothing(
    database: Database, tmp_path: Path
) -> None:
    with served(database, tmp_path, *PROXY, "10.0.0.0/8") as page:
        with page.client(None, **{"X-Forwarded-User": "ida"}) as forger:
            assert forger.get("/").status_code == 401
        with page.client("rita", **{"X-Forwarded-User": "ida"}) as forger:
            assert forger.get("/accounts/default/pause").status_code == 403


def test_a_page_whose_postgres_is_away_says_so_and_goes_on(database: Database, tmp_path: Path) -> None:
    elsewhere = Database(database.name, database.url, "postgresql://127.0.0.1:1/nowhere")
    with served(elsewhere, tmp_path) as page, page.client("ada") as ada:
        answer = ada.get("/")
        assert answer.status_code == 503
        assert "Postgres cannot be reached" in text(answer)
        assert PASSWORD not in answer.text + page.log.read_text()
