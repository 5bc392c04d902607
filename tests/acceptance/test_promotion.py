"""A primary is killed under load and its replica promoted: nothing is executed twice, and nothing is lost.

Workers, apps, commands and the admin page know both servers by one URL, with
``target_session_attrs=read-write``, and none of them is started anew.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.acceptance.delivering import Node, executed_once_each, furnish, node, states
from tests.integration.cli.running import run, said
from tests.integration.dashboard.visiting import asked
from tests.integration.failover.clusters import cut_off, database, primary, promote, replica
from tests.postgres import folder_for_clusters
from tests.waiting import until
from worker import enqueue, wait
from worker.dashboard.logins import Logins, Proxy
from worker.embedded import EmbeddedPostgres
from worker.sandbox import Faults, Sandbox, SandboxSettings

QUICK = {"LEASE_SLACK_SECONDS": 0.5, "POLL_SECONDS": 0.5, "CONCURRENCY": 10}
SLOW = SandboxSettings(faults=Faults(latency_seconds=(0.05, 0.3)))
ENOUGH = 60
"""Executions before the primary is killed."""
MORE = 40
"""Executions on the primary that its replica hears nothing of, if it may lose them."""


@dataclass
class App:
    """A web app that enqueues all the time, and remembers what Postgres told it is committed."""

    url: str
    committed: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        while not self.over.is_set():
            try:
                with psycopg.connect(self.url, connect_timeout=5) as conn:
                    self._produce(conn)
            except psycopg.Error:  # it is away; whether the last commit was one nobody knows
                self.over.wait(0.05)

    def _produce(self, conn: psycopg.Connection) -> None:
        while not self.over.wait(0.02):
            with conn.transaction():
                made = enqueue(conn, "sms.send", {"to": ["+4930123"]})
            self.committed.append(str(made.idempotency_key))

    @contextmanager
    def producing(self) -> Iterator[None]:
        self.thread.start()
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """Return when it commits nothing more."""
        self.over.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def servers() -> Iterator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    with ExitStack() as leave:
        made = leave.enter_context(tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()))
        Path(made).chmod(0o755)
        main = leave.enter_context(primary(Path(made) / "main"))
        yield main, leave.enter_context(replica(main, Path(made) / "other"))


def lose_power(server: EmbeddedPostgres) -> None:
    """SIGKILL every process of *server*, as when its machine goes."""
    assert server.pid is not None
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for each in processes:
        os.kill(each.pid, signal.SIGKILL)
    psutil.wait_procs(processes[1:], timeout=10)
    until(lambda: server.pid is None)


def wait_for_the_replica(main: EmbeddedPostgres) -> None:
    """Let no commit on *main* return before its replica has it."""
    with psycopg.connect(main.url, autocommit=True) as conn:
        conn.execute("alter system set synchronous_standby_names = '*'")
        conn.execute("select pg_reload_conf()")
        synchronous = "select sync_state from pg_stat_replication"
        until(lambda: conn.execute(synchronous).fetchall() == [("sync",)])


def keys(conn: psycopg.Connection) -> set[str]:
    return {row[0] for row in conn.execute("select idempotency_key from outbox.operation").fetchall()}


@pytest.mark.parametrize("synchronous", [True, False], ids=["synchronous", "asynchronous"])
def test_a_replica_is_promoted_under_load_and_nothing_is_executed_twice_or_lost(
    servers: tuple[EmbeddedPostgres, EmbeddedPostgres],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    synchronous: bool,
) -> None:
    main, other = servers
    url = database(main, other).url
    app = App(url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", url)
    page = Logins(url, Proxy("X-User", (ip_network("127.0.0.1/32"),)))
    with ExitStack() as stack:
        stack.callback(page.close)
        api = stack.enter_context(Sandbox(SLOW))
        with psycopg.connect(url, autocommit=True) as conn:
            furnish(conn, api)
            conn.execute("update outbox.schema_version set applied_at = now() - interval '10 hours'")
            conn.execute("update outbox.history set longest_hold = '00:00:01'")  # of these workers
        if synchronous:
            wait_for_the_replica(main)
        nodes = [
            stack.enter_context(node(url, "-c", "2", folder=tmp_path, NODE=each, **QUICK)) for each in "ab"
        ]
        until(lambda: all("worker_started" in each.log for each in nodes), within=40)
        stack.enter_context(app.producing())
        until(lambda: len(api.ledger) >= ENOUGH, within=40, told=lambda: nodes[0].log)
        paused(page, "before")
        before = len(api.ledger)
        if not synchronous:
            with psycopg.connect(main.url, autocommit=True) as conn:
                cut_off(conn, other)
            until(lambda: len(api.ledger) >= before + MORE, within=40)
        lose_power(main)
        promote(other)
        with psycopg.connect(url, autocommit=True) as conn:
            go_on(conn, api, app, page, nodes, synchronous=synchronous)


def go_on(
    conn: psycopg.Connection, api: Sandbox, app: App, page: Logins, nodes: list[Node], *, synchronous: bool
) -> None:
    """See that claims are shut, open them as an operator does, and that everybody goes on.

    The app enqueues meanwhile. Ids that were lost are given again, and answers to the lost operations come
    in: they are taken for no answers to the others.
    """
    until(lambda: all("claims_shut" in each.log for each in nodes), within=30, told=lambda: nodes[0].log)
    # What was claimed on the old primary may still be in flight; nothing new begins.
    until(lambda: api.counts().in_progress == 0)
    committed = set(app.committed)  # first: what it commits after the look is not in what the look finds
    found = keys(conn)
    lost = {str(each.key) for each in api.ledger} - found
    if synchronous:
        assert committed - found == set(), "what was committed is there"
        said(run("history", "confirm", "--reason", "a synchronous replica"))
    else:
        assert lost, "commits were lost, or nothing is proven"
        [(noted_at,)] = conn.execute("select noted_at::text from outbox.history").fetchall()
        said(run("history", "adopt", "--lost-since", noted_at, "--reason", "promoted"))
    paused(page, "after")
    count = len(app.committed)
    until(lambda: len(app.committed) > count + 20, within=30)
    app.stop()
    with psycopg.connect(app.url, autocommit=True) as waiting:
        last = enqueue(waiting, "sms.send", {"to": ["+4930123"]})
        assert wait(waiting, last.id, timeout=30).state == "succeeded"
    until(lambda: set(states(conn)) == {"succeeded"}, within=60, told=lambda: (states(conn), nodes[0].log))
    assert len(api.ledger) == states(conn)["succeeded"] + len(lost)
    assert api.executed_twice() == []
    if not lost:
        executed_once_each(api, conn)
    assert keys(conn) <= {str(each.key) for each in api.ledger}
    assert "succeeded" in said(run("status"))
    assert [each.process.poll() for each in nodes] == [None, None], "none was started anew"


def paused(page: Logins, reason: str) -> None:
    """An administrator looks and acts on the admin page, over the connection that it has kept."""
    with page.entered(asked("postgres")) as (person, conn):
        assert person.is_admin
        conn.execute("select outbox.pause('default', %s)", [reason])
        conn.execute("select outbox.resume('default', %s)", [reason])
