"""The pytest plugin, in runs of its own: what an app's tests can do with it, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.documents import README, snippet
from tests.integration.testing.conftest import RunTests
from tests.postgres import Database

SHOP = """
    import psycopg
    from worker import enqueue

    PHONE = "+919876543210"

    def place_order(conn, phone=PHONE, lane="orders"):
        return enqueue(conn, "voice.call", {"from": "+6512345678", "to": [phone]}, lane=lane)

    def placed(ringonce, **order):
        with psycopg.connect(ringonce.url) as conn:
            return place_order(conn, **order)
"""


def test_a_run_that_uses_no_fixture_imports_nothing_of_it(run_tests: RunTests) -> None:
    result = run_tests("""
        import sys

        def test_nothing_came_along(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("ringonce")
            ours = {"worker", "psycopg", "celery", "kombu", "httpx", "aiohttp", "uvloop"}
            assert ours.isdisjoint(sys.modules)
    """)
    result.assert_outcomes(passed=1)


def test_an_app_with_a_worker_py_of_its_own_runs_its_tests(
    run_tests: RunTests, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(worker="MINE = True")
    result = run_tests("""
        import worker

        def test_mine():
            assert worker.MINE

        def test_theirs(ringonce):
            pass
    """)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*no worker.py of your own that hides the package*"])


def test_databases_of_tests_are_gone_after_the_run_whoever_is_connected(
    run_tests: RunTests, pytester: pytest.Pytester, conn: psycopg.Connection
) -> None:
    result = run_tests(
        SHOP
        + """
    import pathlib

    KEPT = []

    def test_failure(ringonce, ringonce_template):
        KEPT.append(psycopg.connect(ringonce.url))
        urls = [ringonce.url, ringonce_template]
        names = [psycopg.conninfo.conninfo_to_dict(url)["dbname"] for url in urls]
        pathlib.Path("names").write_text(" ".join(names))
        assert False
    """,
        filterwarnings="",
    )
    result.assert_outcomes(failed=1)
    names = (pytester.path / "names").read_text().split()
    assert len(names) == 2
    assert conn.execute("select from pg_database where datname = any(%s)", [names]).fetchall() == []


def test_an_app_puts_its_own_tables_into_the_template(run_tests: RunTests) -> None:
    result = run_tests(
        SHOP
        + """
    def test_order(ringonce):
        with psycopg.connect(ringonce.url) as conn:
            conn.execute("insert into orders values (4711, %s)", [place_order(conn).id])
        ringonce.drain()
        ringonce.assert_sent("voice.call")
    """,
        conftest="""
            import psycopg
            import pytest

            @pytest.fixture(scope="session")
            def ringonce_template(ringonce_template):
                with psycopg.connect(ringonce_template) as conn:
                    conn.execute("create table orders (id bigint primary key, operation_id bigint)")
                return ringonce_template
        """,
    )
    result.assert_outcomes(passed=1)


def test_a_database_of_the_apps_own_gets_an_outbox_that_is_emptied_for_each_test(
    run_tests: RunTests, database: Database, conn: psycopg.Connection
) -> None:
    conn.execute("create table orders (id bigint primary key)")
    conn.execute("insert into orders values (4711)")
    result = run_tests(
        SHOP
        + """
    import pytest

    @pytest.mark.parametrize("number", [1, 2])
    def test_order(ringonce, number):
        ringonce.assert_nothing_enqueued()
        assert ringonce.drain().claimed == 0
        order = placed(ringonce)
        ringonce.drain()
        ringonce.assert_sent("voice.call")
        with psycopg.connect(ringonce.url) as conn:
            assert conn.execute("select count(*) from orders").fetchone() == (1,)
            conn.execute("select outbox.pause('default', 'a test')")
    """,
        ringonce_postgres="",
        ringonce_database=database.url,
    )
    result.assert_outcomes(passed=2)
    assert conn.execute("select count(*) from outbox.operation").fetchone() == (1,)
    with pytest.raises(psycopg.Error, match="not truncated"):
        conn.execute("truncate outbox.operation cascade")


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "distributed"])
def test_a_server_from_the_wheel_serves_the_whole_run_and_is_gone_afterwards(
    run_tests: RunTests, tmp_path: Path, options: tuple[str, ...]
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    result = run_tests(
        SHOP
        + f"""
    import pathlib
    import pytest

    @pytest.mark.parametrize("number", range(6))
    def test_order(ringonce, ringonce_postgres, worker_id, number):
        order = placed(ringonce)
        ringonce.drain()
        ringonce.assert_sent("voice.call")
        with psycopg.connect(ringonce.url) as conn:
            [folder] = conn.execute("show data_directory").fetchone()
        pathlib.Path({str(notes)!r}, f"{{worker_id}}-{{number}}").write_text(folder)
    """,
        *options,
        ringonce_postgres="",
    )
    result.assert_outcomes(passed=6)
    folders = {Path(note.read_text()) for note in notes.iterdir()}
    workers = {note.name.partition("-")[0] for note in notes.iterdir()}
    assert (len(folders), len(workers)) == (1, 2 if options else 1)
    assert not folders.pop().parent.exists()


def test_processes_of_one_run_do_not_share_a_database(run_tests: RunTests, database: Database) -> None:
    result = run_tests("def test_order(ringonce): pass", "-n", "1", ringonce_database=database.url)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*put {worker} into ringonce_database*"])


def test_the_snippet_of_the_readme_is_a_test_that_passes(
    run_tests: RunTests, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(shop=SHOP)
    run_tests(snippet(README, "testing")).assert_outcomes(passed=1)
