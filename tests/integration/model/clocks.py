"""Time in the model's hand: the world's, Postgres' and the workers'.

Postgres is given another ``clock_timestamp()`` before schema.sql is loaded: a function that says what it was
told last. So nothing in the model depends on how fast the machine is, a day costs nothing, and whatever
decided by any other clock would be years off (law 10). Chance is taken from it too.

The laws allow Postgres' clock to be stepped

- back by ``key_safety - settle`` in the life of a key, counted from the latest time it ever showed: by so
  much a window that is measured by it may stay open too long, and ``settle`` more is what the API may take
  until it looks at a key;
- forward at will while nothing is on its way: that only closes windows early;
- forward beside an attempt, from its claim until the API is certainly done with it, by as much as ``settle``
  exceeds the API's own delay after we hung up. If it goes further (``free``), the next attempt may meet an
  API that is busy with the one before. No harm is done where the API lets the second wait, or answers it 409;
  where it executes both, it is executed twice.

The workers' wall clocks may go anywhere at any time: a stopwatch believes the slower of two clocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from psycopg import Connection, sql

ZERO: Final = timedelta(0)
TICK: Final = timedelta(milliseconds=1)
"""What any step takes: no two steps happen at the same time."""
KEY_TTL: Final = timedelta(hours=24)
KEY_SAFETY: Final = timedelta(minutes=10)
HOLD: Final = timedelta(seconds=30)
CALL: Final = timedelta(seconds=30)
SETTLE: Final = timedelta(seconds=30)
"""The defaults of ``outbox.endpoint``, and of ``RINGONCE_LEASE_SLACK_SECONDS``."""
START: Final = datetime(2100, 10, 30, 12, tzinfo=UTC)
"""The day after is one of 25 hours where Postgres is said to live."""


def put_in_hand(conn: Connection) -> None:
    """Let Postgres show what it is told, in this database. To be done before schema.sql is loaded."""
    conn.execute("set allow_system_table_mods = on")
    for function, shown in {
        "clock_timestamp() returns timestamptz": "current_setting('model.clock')::timestamptz",
        "random() returns double precision": "0.5",
    }.items():
        name = function.partition("(")[0]
        conn.execute(f"alter function pg_catalog.{name}() rename to own_{name}".encode())
        conn.execute(f"create function pg_catalog.{function} language sql volatile return {shown}".encode())
    for name, value in (("model.clock", (START - KEY_TTL).isoformat()), ("timezone", "Europe/Berlin")):
        conn.execute(
            sql.SQL("alter database {} set {} = {}").format(
                sql.Identifier(conn.info.dbname), sql.Identifier(*name.split(".")), sql.Literal(value)
            )
        )


@dataclass(slots=True)
class Clocks:
    """What time it is in the world, and what Postgres and the workers' walls show instead."""

    tell: Callable[[datetime], object]
    """Called with what Postgres' clock shows from now on."""
    spare: timedelta
    """What ``settle`` exceeds the API's own delay."""
    free: bool = False
    """Postgres' clock is stepped forward beside an attempt by as much as anybody likes."""
    now: timedelta = ZERO
    """The time that has really gone by since ``START``."""
    ahead: timedelta = ZERO
    """Postgres' clock, beyond the world's."""
    farthest_ahead: timedelta = ZERO
    wall_ahead: timedelta = ZERO
    quiet_at: timedelta = ZERO
    """The API is certainly done by then with whatever was claimed until now."""
    hurried: timedelta = ZERO
    """What Postgres' clock was set forward by while something was on its way."""

    def __post_init__(self) -> None:
        self.tell(self.database)

    @property
    def database(self) -> datetime:
        """What Postgres' clock shows."""
        return START + self.now + self.ahead

    def boot(self) -> float:
        """Seconds since the workers' machines were started."""
        return self.now.total_seconds()

    def wall(self) -> float:
        """What the workers' wall clocks show, in seconds."""
        return (self.now + self.wall_ahead).total_seconds()

    def go_on(self, by: timedelta) -> None:
        self.now += by
        self.tell(self.database)

    def note_claim(self) -> None:
        """An attempt begins, and may keep the API busy for so long."""
        if self.now >= self.quiet_at:
            self.hurried = ZERO
        self.quiet_at = self.now + HOLD + CALL + SETTLE

    def step(self, by: timedelta) -> None:
        """Set Postgres' clock, as far as the laws allow."""
        if by < ZERO:
            by = max(by, self.farthest_ahead - self.ahead - (KEY_SAFETY - SETTLE))
        elif self.now < self.quiet_at and not self.free:
            by = min(by, self.spare - self.hurried)
            self.hurried += by
        self.ahead += by
        self.farthest_ahead = max(self.farthest_ahead, self.ahead)
        self.tell(self.database)
