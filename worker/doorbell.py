"""The bell: it notices that something is due, and wakes as many drains as that is worth.

    COMMIT -- NOTIFY --> bell -- ring, a message without content --> broker --> pool --> drain
    next due time, poll --^

Each worker has one in its main process: a thread with a plain connection, started after the pool. With a
broker that nodes share, the bell elected on the rota rings for all of them; the others only poll, and ring
when something has been due for longer than a poll. The election saves rings and decides nothing: one ring
too many finds nothing to claim. A drain whose time is over before its work says so by NOTIFY, and is followed
by another one without a look. With ``memory://`` no ring leaves its node, so each bell rings for its own.

When the broker takes no ring, the bell does the task itself, in its own thread and loop, until the broker
answers again: Postgres alone decides whether phones ring. The elected bell sends ``upkeep`` as well.

Rings go by a task's name, through the app of the worker that the bell belongs to (law 8: they carry
nothing; lost, doubled, late or reordered, nothing changes but latency).

Decisions:
    2026-11-24: rings expire after a minute, by the receiver's clock. A node whose clock is ahead of the
    others discards what they send; then its own poll rings again.
    2026-11-24: taken slots are counted by Celery's ``active_requests``. ``reserved_requests`` would count
    rings on their way to the pool too, but keeps for good those that were there when the broker hung up.
    2026-11-24: a bell that fails for a reason nobody foresaw takes its worker down, with exit status 1. A
    worker that is deaf and looks alive would be worse.
    2026-11-29: a bell whose drains ask for nothing, though something is due, gives up its place on the rota:
    then views, metrics and ``ringonce probe`` call dead what is of no use. It goes on ringing, and comes back
    when a drain asks. With a broker that nodes share, only a drain that is said to run here can be missed:
    its rings may all have gone to other nodes.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg
from celery import Celery, bootsteps
from celery.platforms import EX_FAILURE
from celery.worker import WorkController, state
from celery.worker.state import active_requests
from kombu.asynchronous import Hub
from psycopg.rows import TupleRow

from worker import loops
from worker.complaint import complaint
from worker.ear import hearing
from worker.errors import StoreRefused, StoreUnavailable
from worker.observe import Event, emit
from worker.pacer import Pacer
from worker.pulse import Pulse, Vigil, pulse
from worker.rope import BrokerAway, Rope, place
from worker.settings import Settings
from worker.stopping import Cord, cord
from worker.store import rota
from worker.store.connection import conninfo
from worker.store.history import Memory
from worker.store.sessions import PATIENT, limit

__all__ = ["DRAIN", "UPKEEP", "Bell", "Counts", "doorbell"]

DRAIN: Final = "ringonce.drain"
UPKEEP: Final = "ringonce.upkeep"

DRAIN_EXPIRES: Final = 60.0
"""How long a ring for a drain is worth answering, in seconds like all that follow."""
UPKEEP_EXPIRES: Final = 10.0
"""The same for upkeep: while every slot is taken, no more than two of these wait for one."""
LONGEST_ROUND: Final = 5.0
"""How often a bell, whatever its poll, signs on and, if elected, sends upkeep: what a lease that ran out
may wait for its rescue."""
OFFICE: Final = 4
"""For how many rounds a bell that falls silent keeps its office: three, and their jitter."""
PATIENCE: Final = 0.1
"""What awake drains have for taking what was announced, before the bell looks whether they could."""
CHEAP: Final = 0.01
"""How long a look may take without being spared. It walks over dead entries that somebody's old snapshot
keeps, 0.1 s for 100,000 operations: then looks get a share of the time, and drains go on by themselves."""
SHARE: Final = 0.02
"""The share that they get. At 0.05, looks were a twentieth of what Postgres did under a snapshot held for six
minutes; claims and records took as long as in the first one."""
HUNGER: Final = 1.0
"""When to look again after more was due than there were slots for."""
REMINDER: Final = 60.0
"""How often it is said that claims are shut."""
FIRST_RETRY: Final = 0.1
LAST_RETRY: Final = 10.0
"""What passes before Postgres is tried again, at first and at most, jitter apart."""
LAST_CALL: Final = 60.0
"""How long a stopping worker waits for what its bell was doing itself."""

Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True, slots=True)
class Counts:
    """What one look led to."""

    drains: int = 0
    """Rings for a drain."""
    upkeeps: int = 0
    """Rings for upkeep."""
    here: int = 0
    """Tasks done in the bell's own thread, because the broker takes no rings."""


class Bell:
    """One worker's bell. ``run`` is its thread; ``run_once`` is one look, for it and for tests."""

    def __init__(
        self,
        app: Celery[Any],
        settings: Settings,
        *,
        slots: Callable[[], int],
        stop: Cord = cord,
        clock: Callable[[], float] = time.monotonic,
        pulse: Pulse = pulse,
    ) -> None:
        self._app = app
        self._settings = settings
        self._slots = slots
        self._stop = stop
        self._clock = clock
        self._rope = Rope(app, clock=clock)
        self._broker = place(settings.broker_url.get_secret_value())
        self._duty = rota.Duty(elected=False, slots=0)
        self._signed_on = False
        self._look_at = self._round_at = self._awake_until = clock()
        self._alone = False
        """The broker takes no rings: the bell does what it would have rung for."""
        self._here = 0
        self._failures = 0
        self._memory = Memory()
        self._looks = Pacer(share=SHARE, free=CHEAP, clock=clock)
        self._shut_said_at: float | None = None
        """Claims are shut, and it was said then."""
        self._vigil = Vigil(pulse, clock=clock)

    def run(self) -> None:
        """Ring until the worker stops, whatever happens to Postgres and to the broker."""
        try:
            while not self._stop.is_pulled():
                self._hold_on()
            emit(Event.WORKER_STOPPING, node=self._settings.node)
        except BaseException:
            state.should_stop = EX_FAILURE  # type: ignore[assignment]  # the stubs know only its first value
            self._stop.pull()
            raise
        finally:
            self._rope.drop()
            loops.close()

    def run_once(self, conn: Connection) -> Counts:
        """Look at what is due and ring what that is worth; once a round, sign on and send upkeep.

        Raises:
            psycopg.Error, StoreUnavailable: Postgres is away; the connection is of no more use.
        """
        self._here = 0
        if not self._signed_on or self._shut_said_at is not None:
            self._sign_on(conn)
        wanted = self._look(conn)
        drains = self._ring(DRAIN, min(wanted, self._free()) if wanted else 0, DRAIN_EXPIRES)
        if drains:
            self._expect_drain()
        if drains < wanted:
            self._look_at = min(self._look_at, self._clock() + HUNGER)
        return Counts(drains, self._round(conn), self._here)

    def announce(self, heard: Sequence[str] = ("",)) -> None:
        """Ring once for what was announced, without a look, unless a drain is awake and heard it as well.

        Not while claims are shut: then a look tells whether they still are.
        """
        if self._shut_said_at is not None:
            return
        if not self._go_on(heard) and not self._is_someone_awake():
            self._ring(DRAIN, 1, DRAIN_EXPIRES)
        self._expect_drain()

    def _go_on(self, heard: Sequence[str]) -> int:
        """Ring for another drain after each that said it left something, which may not quite have ended."""
        left = [node for node in heard if node == self._settings.node or (node and self._rope.is_shared)]
        return self._ring(DRAIN, len(left), DRAIN_EXPIRES) if left else 0

    def _hold_on(self) -> None:
        """Attend one connection for as long as it lasts, then wait a little."""
        try:
            with self._connect() as conn:
                limit(conn, PATIENT)
                self._attend(conn)
        except (psycopg.Error, StoreRefused, StoreUnavailable) as error:
            emit(Event.DISCONNECTED, who="bell", error=complaint(error))
            retry = min(FIRST_RETRY * 2 ** min(self._failures, 10), LAST_RETRY)
            self._failures += 1
            self._stop.wait(retry * random.uniform(1, 1.5))  # noqa: S311 - jitter keeps no secret

    def _connect(self) -> Connection:
        url = self._settings.session_url.get_secret_value()
        # Nothing prepared: a pooler that shares sessions would lose it.
        return psycopg.connect(conninfo(url, "ringonce doorbell"), autocommit=True, prepare_threshold=None)

    def _attend(self, conn: Connection) -> None:
        """Look and wait by turns. The first look is what a reconnect owes to all that it has not heard."""
        self._signed_on = False
        self._vigil.forget()
        self._looks.hurry()
        while not self._stop.is_pulled():
            self.run_once(conn)
            if self._failures:
                emit(Event.RECONNECTED, who="bell")
                self._failures = 0
            if heard := self._wait(conn):
                self.announce(heard)
                self._stop.wait(PATIENCE)
                self._go_on(self._heard(conn))
        rota.sign_off(conn, node=self._settings.node)

    def _wait(self, conn: Connection) -> list[str]:
        """Wait until the next look, or until something is announced; what was."""
        if heard := self._heard(conn):  # it came along with the answer to a statement
            return heard
        self._stop.wait(self._look_at - self._clock(), conn.fileno())
        return self._heard(conn)

    def _heard(self, conn: Connection) -> list[str]:
        """Announcements: of something new without a word, of what a drain left with the name of its node."""
        return [notify.payload for notify in conn.notifies(timeout=0)]

    def _look(self, conn: Connection) -> int:
        """How many drains to ring for; and when to look again."""
        if not self._looks.is_due():
            self._look_at = self._clock() + min(self._looks.rests_for(), self._round_time)
            return 0
        began_at = self._clock()
        poll = self._round_time
        self._look_at = self._clock() + poll * random.uniform(1, 1.25)  # noqa: S311 - jitter keeps no secret
        concurrency = self._settings.concurrency
        due, wait = rota.due(conn, limit=concurrency * max(self._duty.slots, 1))
        self._looks.took(self._clock() - began_at)
        self._miss_drains(conn, due)
        if not self._is_mine():
            overdue = wait is not None and -wait >= self._settings.poll_seconds
            return math.ceil(due / concurrency) if overdue else 0
        if wait is not None and wait > 0:
            soon = self._clock() + wait + (PATIENCE if self._is_someone_awake() else 0)
            self._look_at = min(self._look_at, soon)
        return math.ceil(due / concurrency)

    def _miss_drains(self, conn: Connection, due: int) -> None:
        """Notice that what is due stays due because the drains of this worker stand still.

        One that is full of calls asks for nothing until those end.
        """
        is_expected = due > 0 and (not self._rope.is_shared or len(active_requests) > 0)
        waited = self._vigil.look(is_expected, at_most=2 * self._round_time)
        patience = OFFICE * self._round_time
        if waited > patience and not self._vigil.is_over and waited > patience + rota.longest_call(conn):
            self._vigil.is_over = True
            emit(Event.DRAINS_STUCK, node=self._settings.node, seconds=waited)

    def _is_mine(self) -> bool:
        """Whether what becomes due is this bell's to ring at once."""
        return self._duty.elected or not self._rope.is_shared

    def _is_someone_awake(self) -> bool:
        """Whether a drain listens: one that runs here, or one somewhere that had something to do just now."""
        return len(active_requests) > 0 or self._clock() < self._awake_until

    def _expect_drain(self) -> None:
        """From now on a drain is awake, until it has had nothing to do for its linger."""
        self._awake_until = self._clock() + self._settings.linger_seconds

    def _free(self) -> int:
        """Slots for which no ring is on its way: the fleet's, or this node's if no ring leaves it."""
        slots = self._duty.slots if self._rope.is_shared else self._slots()
        try:
            return max(slots - len(active_requests) - self._rope.unanswered(), 0)
        except BrokerAway:
            return 1  # this thread

    def _ring(self, task: str, times: int, expires: float) -> int:
        """Send *times* rings for *task*; if the broker takes none, do it here, once."""
        try:
            for _ in range(times):
                self._rope.ring(task, expires=expires)
        except BrokerAway as error:
            self._do(task, error)
            return 0
        if times:
            emit(Event.RANG, task=task, count=times)
            self._give_back()
        return times

    def _give_back(self) -> None:
        """The pool hears rings (again): leave the house that the bell had to open for itself."""
        if self._alone:
            self._alone = False
            emit(Event.RECONNECTED, who="rope", broker=self._broker)
            loops.close()

    def _look_for_broker(self) -> None:
        """If it was lost, notice that it is back, even where there is nothing to ring for."""
        if self._alone:
            with suppress(BrokerAway):
                self._rope.unanswered()
                self._give_back()

    def _do(self, task: str, error: BrokerAway) -> None:
        if not self._alone:
            advice = "this bell drains by itself meanwhile; see the RUNBOOK, Broker lost"
            emit(Event.RING_FAILED, broker=self._broker, error=str(error), advice=advice)
        self._alone = True
        self._here += 1
        self._app.tasks[task]()

    def _round(self, conn: Connection) -> int:
        """Once a round: renew this bell's place on the rota and, if it is elected, have upkeep done."""
        if self._clock() < self._round_at:
            return 0
        self._round_at = self._clock() + self._round_time
        self._sign_on(conn)
        rings = self._ring(UPKEEP, int(self._duty.elected), UPKEEP_EXPIRES)
        self._look_for_broker()
        return rings

    @property
    def _round_time(self) -> float:
        return min(self._settings.poll_seconds, LONGEST_ROUND)

    def _sign_on(self, conn: Connection) -> None:
        self._compare(conn)
        before = self._duty.elected
        if self._vigil.is_over:
            rota.sign_off(conn, node=self._settings.node)
        else:
            office = timedelta(seconds=OFFICE * self._round_time)
            self._duty = rota.sign_on(conn, node=self._settings.node, slots=self._slots(), lease=office)
        if self._rope.is_shared and self._duty.elected != before:
            emit(Event.BELL_ELECTED if self._duty.elected else Event.BELL_DEPOSED, node=self._settings.node)
        if hearing.is_used(self._settings) and (self._duty.elected != before or not self._signed_on):
            conn.execute(b"LISTEN ringonce" if self._is_mine() else b"UNLISTEN ringonce")
            self._look_at = self._clock()  # for what was announced to somebody else
            self._looks.hurry()
        self._signed_on = True

    def _compare(self, conn: Connection) -> None:
        """Note that the database is the one it was; while claims are shut, say so now and then."""
        shut = self._memory.compare(conn, hold=self._settings.lease_slack)
        if shut is None and self._shut_said_at is not None:
            emit(Event.CLAIMS_OPEN)
            self._shut_said_at = None
        elif shut is not None and self._is_to_be_said(self._shut_said_at):
            emit(Event.CLAIMS_SHUT, error=shut, advice="see outbox.shut, and the RUNBOOK")
            self._shut_said_at = self._clock()

    def _is_to_be_said(self, said_at: float | None) -> bool:
        return said_at is None or self._clock() - said_at >= REMINDER


class BellThread(threading.Thread):
    """The thread of a worker's bell, for a bootstep to start and stop."""

    def __init__(self, bell: Bell) -> None:
        super().__init__(target=bell.run, name="doorbell", daemon=True)

    def stop(self) -> None:
        """Stop the bell and the whole worker, and wait for what the bell is doing itself."""
        cord.pull()
        self.join(LAST_CALL)


def doorbell(settings: Settings) -> type[bootsteps.StartStopStep]:
    """The bootstep that hangs a bell in a worker: for ``app.steps["worker"]``.

    It stops before the pool, whose children must have felt the cord before they are waited for; the signal
    that pulls it comes with a signal to the process only, not with ``control shutdown``.
    """

    class Doorbell(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def create(self, parent: WorkController) -> BellThread:  # type: ignore[override]  # whatever it returns is kept
            pool: Any = parent.pool
            return BellThread(Bell(parent.app, settings, slots=lambda: pool.num_processes))

        def register_with_event_loop(self, parent: WorkController, hub: Hub) -> None:
            # Otherwise the hub would learn of a stop when its next timer fires, up to 5 s later.
            del parent
            hub.add_reader(cord.fileno(), hub.remove_reader, cord.fileno())

    return Doorbell
