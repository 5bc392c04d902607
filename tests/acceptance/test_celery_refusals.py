"""What a worker cannot work with it refuses at its start: one line on standard error, exit status not 0."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.workers import ROOT, STANDIN, Redis, environment_of
from tests.postgres import Database, Server
from tests.services import require_rabbitmq

pytestmark = pytest.mark.timeout(200)
REAL = ["-m", "celery", "-A", "worker", "worker", "--concurrency=1"]

CELERY = ["-m", "celery", "-A", STANDIN, "worker", "--concurrency=1"]
RUN_WORKER = "from worker.fleet import run_worker; from {} import app; run_worker(app, {!r})"


def ran(arguments: list[str], url: str, **environment: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment_of(url, STANDIN_PIPE=2, **environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(arguments: list[str], url: str, **environment: object) -> str:
    """The one line with which a worker refuses to start.

    Asked again after a minute: a broker that is too slow to refuse counts as away, and the worker starts.
    """
    try:
        done = ran(arguments, url, **environment)
    except subprocess.TimeoutExpired:
        done = ran(arguments, url, **environment)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("ringonce:")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize("pool", ["solo", "gevent"])
def test_pools_in_which_a_drain_cannot_run_are_refused(pool: str, database: Database, tmp_path: Path) -> None:
    gevent = tmp_path / "gevent"  # one that can be patched with, so that Celery gets as far as asking us
    gevent.mkdir()
    (gevent / "__init__.py").touch()
    (gevent / "monkey.py").write_text("def patch_all(): pass")
    (gevent / "signal.py").touch()
    line = refusal([*CELERY, f"--pool={pool}"], database.url, PYTHONPATH=tmp_path)
    assert line == f"ringonce: a drain cannot run in the pool {pool}: use --pool prefork or threads"


@pytest.mark.parametrize("option", ["--pool=eventlet", "-Pgevent", "--pool=solo"])
def test_run_worker_refuses_them_before_celery_tries_to_import_them(option: str, database: Database) -> None:
    line = refusal(["-c", RUN_WORKER.format(STANDIN, [option])], database.url)
    assert line.endswith("use --pool prefork or threads")


def test_prefork_is_refused_on_a_broker_without_a_hub(database: Database) -> None:
    line = refusal(CELERY, database.url, CELERY_BROKER_READ_URL="filesystem://")
    assert "prefork needs: use --pool threads" in line


def test_a_worker_that_no_ring_could_reach_is_refused(database: Database) -> None:
    line = refusal([*CELERY, "-Q", "other"], database.url)
    assert line == "ringonce: nothing would wake it: rings come by the queue 'ringonce' (see -Q and -X)"


def test_time_limits_are_refused(database: Database) -> None:
    assert "RINGONCE_DRAIN_SECONDS" in refusal([*CELERY, "--time-limit=10"], database.url)


def test_children_that_are_not_forked_are_refused(database: Database) -> None:
    assert "must fork" in refusal([*CELERY, "--pool-start-method=spawn"], database.url)


def test_database_without_an_outbox_is_refused(server: Server) -> None:
    empty = server.create()
    try:
        assert "no outbox" in refusal(CELERY, empty.url)
    finally:
        server.drop(empty)


def test_database_that_cannot_be_reached_is_refused_without_its_password() -> None:
    line = refusal(CELERY, "postgresql://someone:secret-word@127.0.0.1:1/nowhere")
    assert "Postgres cannot be reached" in line
    assert "secret-word" not in line


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RINGONCE_CONCURENCY": "5"}, "did you mean RINGONCE_CONCURRENCY?"),
        ({"RINGONCE_BROKER_URL": "filesystem://"}, "use memory://, redis:// (Valkey's, too) or amqp://"),
        ({"RINGONCE_BROKER_URL": "127.0.0.1:6379"}, "use memory://, redis:// (Valkey's, too) or amqp://"),
    ],
)
def test_setting_that_is_wrong_is_refused_in_one_line(environment: dict[str, str], said: str) -> None:
    assert said in refusal(REAL, "postgresql://127.0.0.1/any", **environment)


def test_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('uvloop is broken here')")
    line = refusal(REAL, "postgresql://127.0.0.1/any", PYTHONPATH=tmp_path)
    assert line == "ringonce: uvloop is broken here"


# A broker that answers, and lets nobody in.


@pytest.mark.usefixtures("locked_redis")
@pytest.mark.parametrize(
    ("login", "said"),
    [(":secret-word@", "invalid username-password"), ("", "Authentication required")],
    ids=["wrong password", "no password"],
)
def test_a_redis_that_lets_nobody_in_is_refused_without_the_password(
    login: str, said: str, own_redis: Redis, database: Database
) -> None:
    place = own_redis.url.rpartition("/")[0]
    url = own_redis.url.replace("//", f"//{login}")
    line = refusal(REAL, database.url, RINGONCE_BROKER_URL=url)
    assert line.startswith(f"ringonce: RINGONCE_BROKER_URL: {place} answers, and refuses: ")
    assert said in line
    assert "secret-word" not in line


def test_a_redis_without_that_database_is_refused(own_redis: Redis, database: Database) -> None:
    url = own_redis.url.replace("/0", "/99")
    line = refusal(REAL, database.url, RINGONCE_BROKER_URL=url)
    assert "answers, and refuses: " in line
    assert "DB index is out of range" in line


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(":secret-word@127", "ACCESS_REFUSED"), ("/nowhere", "vhost nowhere not found")],
    ids=["password", "virtual host"],
)
def test_a_rabbitmq_that_lets_nobody_in_is_refused_without_the_password(
    wrong: str, said: str, database: Database
) -> None:
    url = (
        require_rabbitmq().replace(":guest@127", wrong)
        if "@" in wrong
        else f"{require_rabbitmq()[:-2]}{wrong}"
    )
    line = refusal(REAL, database.url, RINGONCE_BROKER_URL=url)
    assert line.startswith("ringonce: RINGONCE_BROKER_URL: amqp://127.0.0.1:5672 answers, and refuses: ")
    assert said in line
    assert "secret-word" not in line


@pytest.mark.parametrize("setting", ["RINGONCE_BROKER_URL", "RINGONCE_ON_DONE_BROKER_URL"])
def test_for_want_of_the_package_that_speaks_to_redis_a_worker_is_refused(
    setting: str, own_redis: Redis, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['redis'] = None")  # not installed
    line = refusal(REAL, database.url, PYTHONPATH=tmp_path, **{setting: own_redis.url})
    assert line == f"ringonce: {setting} needs redis, which is not installed: pip install 'celery[redis]'"
