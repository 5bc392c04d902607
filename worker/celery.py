"""The Celery app, where ``celery -A worker worker`` looks for it: two tasks and no logic.

Whatever keeps this module from loading ends the process in one line: Celery would report an ImportError as
a missing attribute of the package.
"""

from __future__ import annotations

from functools import partial

try:
    from worker import loops
    from worker.doorbell import DRAIN, UPKEEP
    from worker.drain import drain
    from worker.errors import SettingsError
    from worker.fleet import build_app
    from worker.house import open_house
    from worker.settings import load_settings
    from worker.upkeep import upkeep
except ImportError as error:
    raise SystemExit(f"ringonce: {error}") from error

__all__ = ["app", "drain_due", "keep_up"]

try:
    settings = load_settings()
    app = build_app(settings)
except SettingsError as error:
    raise SystemExit(f"ringonce: {error}") from error


@app.task(name=DRAIN)
def drain_due() -> None:
    """Deliver what is due, in this process's or thread's house."""
    loops.run(
        partial(open_house, settings),
        lambda house, stop: drain(house, seconds=settings.drain_seconds, stop=stop),
    )


@app.task(name=UPKEEP)
def keep_up() -> None:
    """Put right what no drain meets, in the same house."""
    loops.run(partial(open_house, settings), lambda house, _stop: upkeep(house))
