"""How Celery is set up for ringonce: its configuration, what it refuses, what its signals do, how it starts.

``celery.py`` makes one app with ``build_app`` and hangs the tasks on it; so do the tests, with other tasks.

Decisions:
    2026-11-24: late acknowledgement, and no redelivery of a ring whose process died: the bell rings again
    anyway, and if it was the drain that killed the process, requeueing would make a loop without a pause.
    2026-11-24: no time limits: their exception lands in one coroutine of many. A drain has its own time.
    2026-11-24: RINGONCE_BROKER_URL is the only word on the broker. Celery would also obey BROKER_URL, which
    in a container often belongs to somebody else.
    2026-11-24: a pool child that ends waits half a minute for Celery to take its last results. A task that
    was handed out within milliseconds of the stop Celery has forgotten. No result of ours is worth the wait.
    2026-11-24: gossip, mingle and event heartbeats are off. Drains are anonymous, and nothing reads them; on
    Redis mingle alone delays every start by a second.
    2026-11-29: with ``-E`` heartbeats are sent, too: Flower, for which that is, calls a worker without them
    offline.
    2026-11-29: a broker that answers and lets nobody in is refused at the start, when a person looks. One
    that is away, or turns against a worker later, costs no delivery: the bell does without.
    2026-11-29: a worker's mailbox for ``celery inspect`` is durable. Celery's is exclusive, and as long as
    RabbitMQ believes in a connection that is cut, it keeps the worker out that connects anew, which ends it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, Final, NoReturn

import billiard.pool
from billiard import current_process, get_start_method
from celery import Celery, concurrency, signals
from celery.app.control import Control
from celery.bin.base import CLIContext
from celery.bin.worker import worker as worker_command
from celery.worker import WorkController
from celery.worker.consumer import Consumer

from worker import json_lines, loops, observe, wakeups
from worker.doorbell import doorbell
from worker.ear import hearing
from worker.errors import RingonceError, SettingsError
from worker.rope import QUEUE, BrokerAway, BrokerRefused, Rope, place, transport_options
from worker.settings import Settings
from worker.stopping import cord
from worker.store import check_schema
from worker.store.connection import conninfo
from worker.store.sessions import check_direct

__all__ = ["QuietConsumer", "build_app", "run_worker"]

PREFORK: Final = "celery.concurrency.prefork"
THREADS: Final = "celery.concurrency.thread"
"""The pools that a drain can run in: one loop to a process or a thread."""
NO_POOL: Final = "a drain cannot run in the pool {}: use --pool prefork or threads"

LAST_RESULTS: Final = 10
"""How often a pool child that ends looks, ten times a second, whether its results were taken."""


def build_app(settings: Settings) -> Celery[Any]:
    """An app whose workers ring for themselves, and refuse to start on what they could not work with.

    It has no tasks yet: the bell rings for ``doorbell.DRAIN`` and ``doorbell.UPKEEP``.

    Raises:
        SettingsError: nobody here can speak to a broker that *settings* name.
    """
    _refuse_brokers(settings)
    wakeups.install()
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = LAST_RESULTS
    is_alone = settings.broker_url.get_secret_value().startswith("memory:")
    app: Celery[Any] = Celery("ringonce", control=LonelyControl if is_alone else None)
    app.conf.update(configuration(settings))
    app.steps["worker"].add(doorbell(settings))
    if settings.log_format == "json":
        json_lines.write_json(settings)
    signals.worker_init.connect(partial(_start, settings), weak=False)
    _connect_children(settings)
    return app


def configuration(settings: Settings) -> dict[str, object]:
    """What Celery is told, all of it."""
    broker = settings.broker_url.get_secret_value()
    if broker == "memory://":
        broker = "memory://localhost"  # kombu warns of a broker without a host
    return {
        "broker_url": broker,
        "broker_read_url": broker,
        "broker_write_url": broker,
        "broker_transport_options": transport_options(broker),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_default_queue": QUEUE,
        "task_default_queue_type": "quorum",  # what RabbitMQ keeps when a node of it dies; others ignore it
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
        "worker_enable_prefetch_count_reduction": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_disable_rate_limits": True,
        "worker_send_task_events": False,
        "control_queue_exclusive": False,
        "control_queue_durable": True,
        "worker_consumer": f"{__name__}:{QuietConsumer.__name__}",
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


class LonelyControl(Control):
    """Celery's remote control where no message leaves its process: it says so, and waits for no answer."""

    def broadcast(self, *_: object, **__: object) -> NoReturn:
        """Refuse, with who knows more.

        Raises:
            SettingsError: always.
        """
        raise SettingsError(
            "with memory:// no message reaches a worker from outside of its process; Postgres knows them: "
            "ringonce top, or select * from outbox.worker"
        )


class QuietConsumer(Consumer):
    """Celery's consumer without what it has to tell other workers, and without queues for delayed messages.

    With quorum queues it would make 56 queues and exchanges for countdowns; ringonce has none.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[valid-type,misc]  # an attribute, say the stubs
        """Its steps, less the one that makes those queues."""

        default_steps = tuple(
            step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        )

    def __init__(
        self,
        on_task_request: Callable[..., object],
        worker_options: dict[str, Any] | None = None,
        **options: Any,  # noqa: ANN401 - Celery's, passed on
    ) -> None:
        quiet = {
            "without_gossip": True,
            "without_mingle": True,
            "without_heartbeat": not options.get("task_events"),
        }
        super().__init__(on_task_request, worker_options={**(worker_options or {}), **quiet}, **options)


def run_worker(app: Celery[Any], arguments: Sequence[str]) -> NoReturn:
    """Run ``celery worker`` with *app* itself, whatever lies in the current folder, and exit as it does.

    Args:
        app: from ``build_app``.
        arguments: options of ``celery worker``.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-P", "--pool", default="prefork")
    pool = parser.parse_known_args(arguments)[0].pool
    if pool not in ("prefork", "threads"):  # before Celery imports it: eventlet may not be there
        raise SystemExit(f"ringonce: {NO_POOL.format(pool)}")
    context = CLIContext(app=app, no_color=False, workdir=None)
    sys.exit(worker_command.main(list(arguments), "ringonce worker", standalone_mode=False, obj=context))


@signals.worker_shutting_down.connect(weak=False)
def _pull_the_cord(**_: object) -> None:
    cord.pull()


@signals.worker_process_shutdown.connect(weak=False)
def _close_this_child(**_: object) -> None:
    loops.close()


@signals.worker_shutdown.connect(weak=False)
def _close_the_threads(**_: object) -> None:
    loops.close_all()


def _connect_children(settings: Settings) -> None:
    """Have pool children count where they should, and leave no span behind."""
    if settings.metrics_port is not None:
        signals.worker_process_init.connect(_count_in_slot, weak=False)
    if settings.traces:
        signals.worker_process_shutdown.connect(_flush_spans, weak=False)
        signals.worker_shutdown.connect(_flush_spans, weak=False)


def _count_in_slot(**_: object) -> None:
    from worker.metrics import node  # noqa: PLC0415 - it takes a package that few have

    child: Any = current_process()
    node.enter_child(child.index)


def _flush_spans(**_: object) -> None:
    from worker import traces  # noqa: PLC0415 - it takes a package that few have

    traces.flush()


def _start(settings: Settings, sender: WorkController, **_: object) -> None:
    """Refuse to start in one line. Celery would log any other exception than SystemExit, and start."""
    try:
        _refuse_worker(sender)
        check_schema(settings.database_url.get_secret_value())
        _refuse_login(settings, sender.app)
        hearing.is_lost = _is_deaf(settings)
        _open_metrics(settings)
        traced = not settings.traces or _has_provider()
    except RingonceError as error:
        raise SystemExit(f"ringonce: {error}") from error
    observe.configure(settings)
    if hearing.is_lost:
        observe.emit(
            observe.Event.DEAF, advice="set RINGONCE_DIRECT_URL, or RINGONCE_NOTIFY=false to only poll"
        )
    if not traced:
        observe.emit(observe.Event.TRACES_NOWHERE, advice="set up OpenTelemetry's SDK: deploy/METRICS.md")
    observe.emit(observe.Event.WORKER_STARTED, node=settings.node)


def _is_deaf(settings: Settings) -> bool:
    url, direct = settings.database_url.get_secret_value(), settings.direct_url
    return check_direct(
        conninfo(url, "ringonce worker"),
        None if direct is None else conninfo(direct.get_secret_value(), "ringonce worker"),
        listens=settings.notify,
    )


def _open_metrics(settings: Settings) -> None:
    """Begin to count, if that was asked for and can be."""
    if settings.metrics_port is not None:
        with _taking("ringonce[metrics]", setting="RINGONCE_METRICS_PORT"):
            from worker.metrics import node  # noqa: PLC0415 - it takes a package that few have
        node.start(settings.metrics_address, settings.metrics_port)


def _has_provider() -> bool:
    """Whether spans that were asked for go anywhere; whatever provider there is stands before the forks."""
    with _taking("ringonce[otel]", setting="RINGONCE_TRACES"):
        from worker import traces  # noqa: PLC0415 - it takes a package that few have
    return traces.has_provider()


@contextmanager
def _taking(requirement: str, *, setting: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{setting} needs {error.name}, which is not installed: pip install '{requirement}'"
        ) from error


def _refuse_brokers(settings: Settings) -> None:
    """Refuse what nobody here can speak to. RabbitMQ's tongue comes with kombu."""
    for setting, url in (
        ("RINGONCE_BROKER_URL", settings.broker_url),
        ("RINGONCE_ON_DONE_BROKER_URL", settings.on_done_broker_url),
    ):
        if url is not None and url.get_secret_value().startswith("redis"):
            with _taking("celery[redis]", setting=setting):
                import_module("redis")


def _refuse_login(settings: Settings, app: Celery[Any]) -> None:
    """Refuse a broker that answers and does not let us in or not to our queue. One that is away is none."""
    rope = Rope(app)
    if not rope.is_shared:
        return
    try:
        rope.unanswered()
    except BrokerRefused as error:
        where = place(settings.broker_url.get_secret_value())
        raise SettingsError(f"RINGONCE_BROKER_URL: {where} answers, and refuses: {error}") from error
    except BrokerAway:
        pass  # the bell will say so
    finally:
        rope.drop()


def _refuse_worker(worker: Any) -> None:  # noqa: ANN401 - the stubs know few of its attributes
    pool = concurrency.get_implementation(worker.pool_cls).__module__
    if pool not in (PREFORK, THREADS):
        raise SettingsError(NO_POOL.format(pool.rpartition(".")[2]))
    if QUEUE not in worker.app.amqp.queues.consume_from:
        raise SettingsError(f"nothing would wake it: rings come by the queue {QUEUE!r} (see -Q and -X)")
    if worker.time_limit or worker.soft_time_limit:
        raise SettingsError("a time limit would cut a drain anywhere: RINGONCE_DRAIN_SECONDS ends it")
    if pool == PREFORK:
        _refuse_prefork(worker)


def _refuse_prefork(worker: Any) -> None:  # noqa: ANN401 - the stubs know few of its attributes
    if worker.pool_start_method != "fork" or get_start_method() != "fork":
        raise SettingsError("the prefork pool must fork its children: use --pool threads here")
    if not worker.app.connection_for_read().transport.implements.asynchronous:
        raise SettingsError(
            "this broker does not wake Celery's loop, which prefork needs: use --pool threads"
        )
