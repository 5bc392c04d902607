"""What the pages show, to a browser without JavaScript, and what they keep to themselves."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.integration.dashboard.serving import PATIENCE, Page, find, one, served, text, token
from tests.integration.dashboard.world import PHONE
from tests.postgres import Connect, Database
from worker.dashboard.shield import CONTENT_SECURITY_POLICY

PAGES = ["/", "/throughput", "/operations", "/operations?state=failed", "/unresolved"]


@pytest.fixture
def failed(conn: psycopg.Connection) -> str:
    return one(conn, "select id from outbox.operation where last_error like 'HTTP 400%' limit 1")


@pytest.fixture
def newest(conn: psycopg.Connection) -> str:
    """An unresolved operation that calls PHONE."""
    return one(conn, "select max(id) from outbox.operation")


@pytest.mark.parametrize("path", PAGES)
def test_no_page_holds_a_script_a_style_or_an_address_of_elsewhere(ada: httpx.Client, path: str) -> None:
    answer = ada.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(
        r"<style| style=|<script(?![^>]* src=\"/static/)| on\w+=|(?:src|href)=\"(?!/|#)", answer.text
    )


@pytest.mark.parametrize("path", PAGES)
def test_without_javascript_a_page_is_whole_and_with_it_only_what_lives_is_fetched(
    ada: httpx.Client, path: str
) -> None:
    whole, part = ada.get(path).text, ada.get(path, headers={"HX-Request": "true"}).text
    assert whole.startswith("<!doctype html>")
    assert "<html" not in part
    assert part.count("<table") + part.count("<svg") == whole.count("<table") + whole.count("<svg")
    assert "<form" not in part  # whoever fills one in would lose it


@pytest.mark.parametrize(
    "told",
    [
        "1,284,311 succeeded",
        "6 unresolved",
        "9 in flight",
        "422 queued",
        "420 due and not claimed, the oldest for 2\\d min",
        "partner paused for 2\\d min \\d+ s: wrong caller id, asked Mia",
        "otp blocked for \\d+ min \\d+ s: HTTP 401: UNAUTHORIZED",
        "campaign throttled sms.send for \\d+ min \\d+ s: HTTP 429",
        "50/s, burst 100",
        "calls-1 on duty",
        "calls-3 gone",
    ],
)
def test_the_overview_shows_states_backlog_accounts_and_fleet(rita: httpx.Client, told: str) -> None:
    assert re.search(told, text(rita.get("/")))


def test_shut_claims_are_an_alarm(ada: httpx.Client, conn: psycopg.Connection) -> None:
    assert 'class="alarm"' not in ada.get("/").text
    conn.execute("select outbox.doubt_history('restored the snapshot of 02:00')")
    try:
        assert "Claims are shut" in text(ada.get("/"))
        assert "restored the snapshot of 02:00" in text(ada.get("/"))
    finally:
        conn.execute("select outbox.confirm_history('nothing was lost')")


def test_an_account_shows_all_that_stops_it(ada: httpx.Client, conn: psycopg.Connection) -> None:
    set_doubt = "update outbox.account_meter set doubt_run = 20, probe_at = {} where account = 'campaign'"
    conn.execute(set_doubt.format("clock_timestamp()").encode())
    why = "in doubt one at a time: 20 ambiguous attempts in a row opened its breaker"
    assert f"campaign {why} throttled sms.send" in text(ada.get("/"))
    conn.execute(set_doubt.format("null").encode())
    assert why not in text(ada.get("/"))


def test_what_is_stopped_can_be_resumed_and_what_is_not_paused_can_be_paused(ada: httpx.Client) -> None:
    assert re.findall(r'id="((?:pause|resume)-\w+)"', ada.get("/").text) == [
        "resume-campaign",
        "pause-campaign",
        "pause-default",
        "resume-otp",
        "pause-otp",
        "resume-partner",
    ]


def test_proof_of_a_double_execution_is_an_alarm(
    ada: httpx.Client, conn: psycopg.Connection, failed: str
) -> None:
    assert "executed, but on record as failed" not in text(ada.get("/"))
    conn.execute(
        "insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at,"
        " recorded, late, verdict, phase, status) values (%s, 2, gen_random_uuid(), 'calls-1/90',"
        " clock_timestamp(), clock_timestamp(), true, true, 'accepted', 'answered', 200)",
        [failed],
    )
    said = text(ada.get("/"))
    assert f"Operation {failed} , attempt 2: executed, but on record as failed" in said


def test_the_plots_are_drawn_on_the_server_and_told_in_words(ada: httpx.Client) -> None:
    page = ada.get("/throughput").text
    assert page.count("<svg") == 2
    assert page.count("<rect") > 50
    assert re.search(
        r'aria-label="Attempts of the last hour: [\d,]+ accepted, \d+ ambiguous, \d+ not executed;', page
    )


def test_pages_go_by_key_and_show_every_operation_once(ada: httpx.Client, conn: psycopg.Connection) -> None:
    address, seen = "/operations?state=queued", list[str]()
    for _ in range(20):
        page = ada.get(address).text
        seen += re.findall(r'id="operation-(\d+)"', page)
        older = re.search(r'href="(/operations\?[^"]*after=[^"]*)"', page)
        if older is None:
            break
        address = older[1].replace("&amp;", "&")
    rows = conn.execute("select id::text from outbox.operation where state = 'queued' order by id desc")
    assert seen == [id_ for (id_,) in rows]


@pytest.mark.parametrize(
    ("filters", "condition"),
    [
        ("state=in_flight", "state = 'in_flight'"),
        ("state=failed", "state = 'failed'"),
        ("account=otp", "account = 'otp'"),
        ("endpoint=voice.broadcast&account=default", "endpoint = 'voice.broadcast' and account = 'default'"),
        ("state=queued&account=partner&endpoint=sms.send", "state = 'queued' and account = 'partner'"),
        ("account=nobody", "false"),
        ("state=nonsense&after=junk", "true"),
    ],
)
def test_a_list_holds_what_its_filters_let_through(
    ada: httpx.Client, conn: psycopg.Connection, filters: str, condition: str
) -> None:
    query = f"select o.id::text from outbox.operation o where {condition} order by o.id desc limit 50"
    rows = conn.execute(query.encode()).fetchall()
    assert re.findall(r'id="operation-(\d+)"', ada.get(f"/operations?{filters}").text) == [
        id_ for (id_,) in rows
    ]


@pytest.mark.parametrize("column", ["id", "idempotency_key", "provider_id"])
def test_an_operation_is_found_by_its_id_its_key_and_the_providers_id(
    rita: httpx.Client, conn: psycopg.Connection, column: str
) -> None:
    id_ = one(conn, "select min(id) from outbox.operation where provider_id is not null")
    name = one(conn, f"select {column} from outbox.operation where id = {id_}")
    answer = find(rita, f"  {name} ")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/operations/{id_}")


def test_an_operation_is_found_by_the_phone_number_it_calls_and_its_number_is_in_no_address(
    ada: httpx.Client, newest: str
) -> None:
    answer = find(ada, "+49 151 / 1234-5678")
    assert f'id="operation-{newest}"' in answer.text
    assert "1234" not in str(answer.url)
    assert "•••78" in text(answer)
    assert PHONE not in text(answer)


@pytest.mark.parametrize(
    ("day", "is_found"),
    [("2001-01-01", False), ("2101-01-01", True), ("9999-12-31", True), ("some day", True)],
)
def test_a_phone_number_is_looked_for_from_a_day_backwards(
    ada: httpx.Client, newest: str, *, day: str, is_found: bool
) -> None:
    answer = find(ada, PHONE, day=day)
    assert (f'id="operation-{newest}"' in answer.text) == is_found
    assert (f'value="{day}"' in answer.text) == (day[:2] in {"20", "21"})


def test_a_reader_may_not_look_for_phone_numbers(rita: httpx.Client, newest: str) -> None:
    answer = find(rita, PHONE)
    assert f'id="operation-{newest}"' not in answer.text
    assert "takes the role outbox_admin" in text(answer)


@pytest.mark.parametrize(
    "sought", ["nothing of this name", "9" * 30, "0", "'; drop table", "\x00", "%", "\ud83d\ude00"]
)
def test_what_is_not_there_is_not_found_whatever_it_is_called(ada: httpx.Client, sought: str) -> None:
    sought = sought.encode("utf-16", "surrogatepass").decode("utf-16")
    answer = find(ada, sought)
    assert answer.status_code == 200
    assert "No operation has this id" in text(answer)


def test_an_operation_shows_its_story_its_window_and_what_was_done(ada: httpx.Client, newest: str) -> None:
    said = text(ada.get(f"/operations/{newest}"))
    for told in (
        f"Operation {newest}",
        "left: the key still protects a retry",
        "Attempt 1 ambiguous may have been executed, took 30 s, sent read timeout after 30 s by calls-1/92",
        "Attempt 2 ambiguous may have been executed, took 30 s its worker was lost",
        "which did not say what came of it",
        "18 h",
    ):
        assert told in said


def test_an_operation_shows_that_it_is_under_a_legal_hold(
    rita: httpx.Client, conn: psycopg.Connection, failed: str
) -> None:
    conn.execute("select outbox.hold(%s, 'case of +4915100000077')", [failed])
    shown = text(rita.get(f"/operations/{failed}"))
    assert re.search(
        rf"Under a legal hold \(operation {failed}\) since .*: case of •••77\. Nobody scrubs", shown
    )
    conn.execute("select outbox.release(%s, 'closed')", [failed])
    assert "Under a legal hold" not in text(rita.get(f"/operations/{failed}"))


@pytest.mark.parametrize(
    "id_",
    ["0", "999999999", "9223372036854775808", "99999999999999999999999", "9" * 5_000, "-1", "x", "\u0661"],
    ids=lambda id_: id_[:30],
)
def test_an_operation_that_is_not_there_is_not_found(ada: httpx.Client, id_: str) -> None:
    for deed in ("", "/cancel"):
        answer = ada.get(f"/operations/{id_}{deed}")
        assert (answer.status_code, f"there is no operation {id_[:30]}" in text(answer)) == (404, True)
    answer = ada.post(f"/operations/{id_}/reveal", data={"token": token(ada.get("/"))})
    assert answer.status_code == 404


def test_phone_numbers_and_bodies_are_masked_everywhere_until_somebody_asks(
    page: Page, ada: httpx.Client, newest: str, failed: str
) -> None:
    shown = [ada.get(path).text for path in (*PAGES, f"/operations/{newest}", f"/operations/{failed}")]
    assert not [each for each in shown if PHONE.lstrip("+") in each or "4915100000077" in each]
    assert not [each for each in shown if "order-4711" in each]
    assert "•••77 is not a valid number" in shown[-1]
    shown_now = text(ada.post(f"/operations/{newest}/reveal", data={"token": token(ada.get("/"))}))
    assert PHONE in shown_now
    assert "order-4711" in shown_now
    assert PHONE not in page.log.read_text()
    assert re.search(rf"revealed.*by=ada.*operation={newest}", page.log.read_text())


def test_what_was_answered_is_shown_to_the_byte_and_never_as_html(
    ada: httpx.Client, conn: psycopg.Connection, failed: str
) -> None:
    conn.execute("set session_replication_role = replica")
    conn.execute(
        "update outbox.operation set response_body = %s, response_headers = %s::jsonb where id = %s",
        [b"<script>alert(1)</script>\xff", '[["X", "<b>"]]', failed],
    )
    conn.execute("set session_replication_role = origin")
    page = ada.post(f"/operations/{failed}/reveal", data={"token": token(ada.get("/"))})
    assert "<script>alert" not in page.text
    assert "X: &lt;b&gt;" in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\xff" in page.text


def test_no_page_holds_a_password_or_a_credential(ada: httpx.Client, page: Page) -> None:
    shown = "".join(ada.get(path).text for path in PAGES) + page.log.read_text()
    assert not re.search(r"correct horse|scram|Authorization|lease_token", shown, re.IGNORECASE)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/static/style.css", 200),
        ("/static/htmx.min.js", 200),
        ("/static/%2e%2e/app.py", 404),
        ("/nowhere", 404),
    ],
)
def test_our_own_files_are_all_that_is_served(page: Page, path: str, status: int) -> None:
    answer = httpx.get(page.address + path, trust_env=False, timeout=PATIENCE)
    assert answer.status_code == status
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_a_page_lets_go_of_a_statement_that_takes_too_long(
    database: Database, tmp_path: Path, connect: Connect
) -> None:
    holder = connect(autocommit=False)
    holder.execute("lock table outbox.account in access exclusive mode")
    with served(database, tmp_path) as page, page.client("ada") as ada:
        answer = ada.get("/")
    assert answer.status_code == 503
    assert "Postgres took too long to answer" in text(answer)
    holder.rollback()
