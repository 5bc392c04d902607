"""How each event of the schedule is brought about, and undone."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress

import psutil

from tests.chaos import administering
from tests.chaos.proxies import Proxy
from tests.chaos.schedule import ADMIN, API, BROKER, NODES, POSTGRES, Event
from tests.chaos.stage import LATENCY, Stage

Failure = Callable[[Stage, Event], AbstractContextManager[None]]
SUPERVISION = 0.25
"""How often somebody looks whether a node is there, in seconds."""


def play(stage: Stage, organ: str, started_at: float) -> None:
    """Go through the timeline of *organ*, until the run is over; everything is as before afterwards."""
    for event in stage.schedule.of(organ):
        if not _waited(stage, organ, started_at + event.at - time.monotonic()):
            return
        stage.faults[f"{organ if organ not in NODES else 'node'}: {event.kind}"] += 1
        with failure(organ, event.kind)(stage, event):
            stage.over.wait(event.lasts)
    _waited(stage, organ, started_at + stage.schedule.seconds - time.monotonic())


def _waited(stage: Stage, organ: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stage.over.wait(min(left, SUPERVISION)):
            return False
        if organ in stage.nodes:
            stage.nodes[organ].supervise()
    return not stage.over.is_set()


def failure(organ: str, kind: str) -> Failure:
    """What brings about a failure of this kind, and undoes it."""
    if organ == ADMIN:
        return administering.act
    own = FAILURES["node" if organ in NODES else organ]
    return own.get(kind, _api_answers)


@contextmanager
def _node_is_killed(stage: Stage, event: Event) -> Iterator[None]:
    stage.nodes[event.organ].kill()
    yield
    stage.nodes[event.organ].start()


@contextmanager
def _main_process_is_killed(stage: Stage, event: Event) -> Iterator[None]:
    node = stage.nodes[event.organ]
    node.kill_main()
    yield
    node.kill()
    node.start()


@contextmanager
def _child_is_killed(stage: Stage, event: Event) -> Iterator[None]:
    if (child := stage.nodes[event.organ].child(event.pick)) is not None:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    yield


@contextmanager
def _node_stands_still(stage: Stage, event: Event) -> Iterator[None]:
    stage.nodes[event.organ].signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stage.nodes[event.organ].signal(signal.SIGCONT)


@contextmanager
def _child_stands_still(stage: Stage, event: Event) -> Iterator[None]:
    child = stage.nodes[event.organ].child(event.pick)
    with suppress(psutil.NoSuchProcess):
        if child is not None:
            child.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            if child is not None:
                child.resume()


@contextmanager
def _node_is_told_to_stop(stage: Stage, event: Event) -> Iterator[None]:
    stage.nodes[event.organ].stop()
    yield
    stage.nodes[event.organ].start()


@contextmanager
def _postgres_crashes(stage: Stage, event: Event) -> Iterator[None]:  # noqa: ARG001  a Failure
    stage.postgres.stop("immediate")
    try:
        yield
    finally:
        stage.start_postgres()


@contextmanager
def _broker_is_killed(stage: Stage, event: Event) -> Iterator[None]:  # noqa: ARG001  a Failure
    if stage.broker is None:
        yield
        return
    stage.broker.kill()
    try:
        yield
    finally:
        stage.broker.start()


def _of(
    proxy_of: Callable[[Stage], Proxy | None], fail: Callable[[Proxy], None], heal: Callable[[Proxy], None]
) -> Failure:
    @contextmanager
    def failing(stage: Stage, event: Event) -> Iterator[None]:  # noqa: ARG001  a Failure
        proxy = proxy_of(stage)
        if proxy is None:
            yield
            return
        fail(proxy)
        try:
            yield
        finally:
            heal(proxy)

    return failing


def _slowly(proxy_of: Callable[[Stage], Proxy], most: Callable[[Stage], float]) -> Failure:
    def failing(stage: Stage, event: Event) -> AbstractContextManager[None]:
        seconds = most(stage) * event.level
        return _of(proxy_of, lambda proxy: proxy.delay(seconds), lambda proxy: proxy.delay(0))(stage, event)

    return failing


@contextmanager
def _api_is_an_impostor(stage: Stage, event: Event) -> Iterator[None]:  # noqa: ARG001  a Failure
    stage.api_proxy.aim(stage.impostor.port)
    stage.api_proxy.reset()
    try:
        yield
    finally:
        stage.api_proxy.aim(stage.api.port)
        stage.api_proxy.reset()


@contextmanager
def _api_is_slow(stage: Stage, event: Event) -> Iterator[None]:
    stage.api.configure(faults={"latency_seconds": (0.0, stage.schedule.setup.slowest * event.level)})
    try:
        yield
    finally:
        stage.api.configure(faults={"latency_seconds": LATENCY})


@contextmanager
def _api_answers(stage: Stage, event: Event) -> Iterator[None]:
    usual = stage.schedule.setup.chances
    rest = 1 - sum(usual.values())
    more = usual.get(event.kind, 0) + rest * (0.2 + 0.8 * event.level)
    stage.api.configure(faults={"chances": {**usual, event.kind: more}})
    try:
        yield
    finally:
        stage.api.configure(faults={"chances": dict(usual)})


def _database(stage: Stage) -> Proxy:
    return stage.database_proxy


def _api(stage: Stage) -> Proxy:
    return stage.api_proxy


def _broker(stage: Stage) -> Proxy | None:
    return stage.broker_proxy


def _nothing(_: Proxy) -> None:
    """A cut needs no healing."""


FAILURES: Mapping[str, Mapping[str, Failure]] = {
    "node": {
        "kill": _node_is_killed,
        "kill_main": _main_process_is_killed,
        "kill_child": _child_is_killed,
        "stop": _node_stands_still,
        "stop_child": _child_stands_still,
        "term": _node_is_told_to_stop,
    },
    POSTGRES: {
        "crash": _postgres_crashes,
        "cut": _of(_database, Proxy.reset, _nothing),
        "blackhole": _of(_database, Proxy.swallow, Proxy.heal),
        "delay": _slowly(_database, lambda _: 0.05),
    },
    BROKER: {
        "kill": _broker_is_killed,
        "cut": _of(_broker, Proxy.reset, _nothing),
        "blackhole": _of(_broker, Proxy.swallow, Proxy.heal),
    },
    API: {
        "refuse": _of(_api, Proxy.refuse, Proxy.admit),
        "reset": _of(_api, Proxy.reset, _nothing),
        "blackhole": _of(_api, Proxy.swallow, Proxy.heal),
        "delay": _slowly(_api, lambda stage: stage.schedule.setup.most_delay),
        "impostor": _api_is_an_impostor,
        "slow": _api_is_slow,
    },
}


def heal(stage: Stage) -> None:
    """Switch every fault off, lift every pause and block, and have every node run."""
    stage.api.configure(faults={"chances": {}, "latency_seconds": (0.0, 0.05)})
    for proxy in (stage.api_proxy, stage.database_proxy, stage.broker_proxy):
        if proxy is not None:
            proxy.delay(0)
            proxy.heal()
            proxy.admit()
    for node in stage.nodes.values():
        node.supervise()
        node.start()
    with stage.connect() as conn:
        if stage.schedule.setup.sandbox["errors_cached"]:
            # A 503 that stands under a key comes for ever; only the budget of attempts ends that.
            conn.execute("update outbox.endpoint set max_attempts = 12")
        for account in conn.execute("select name from outbox.account").fetchall():
            conn.execute("select outbox.resume(%s, 'the run is over')", account)
        conn.execute(administering.CONFIRM)
