"""A worker's own metrics: its main process serves what all its processes count."""

from __future__ import annotations

import atexit
import os

from worker import observe
from worker.errors import SettingsError
from worker.metrics.meters import Meters
from worker.metrics.serving import Server
from worker.metrics.slots import Slots

__all__ = ["enter_child", "start"]

_slots: Slots | None = None


def start(host: str, port: int) -> None:
    """Count from now on, and serve it; for the main process, before it forks.

    Raises:
        SettingsError: the port is taken, or there is no room for what is counted.
    """
    global _slots  # noqa: PLW0603 - one to a worker
    server = Server(host, port)  # first: whoever has the port may remove what another left
    try:
        _slots = Slots.for_port(port)
    except OSError as error:
        raise SettingsError(f"metrics need room for temporary files: {error.strerror}") from error
    atexit.register(_remove, _slots, os.getpid())
    observe.meter(Meters().count)
    server.tell(_slots.registry())
    server.start()


def enter_child(index: int) -> None:
    """Count in the slot of a pool's child, which this process is; without room, not at all."""
    if _slots is None:
        return
    try:
        _slots.enter(index)
    except OSError as error:
        observe.meter(None)
        observe.emit(observe.Event.METRICS_FAILED, error=error)


def _remove(slots: Slots, owner: int) -> None:
    if os.getpid() == owner:  # a fork inherits what is to be done at the end
        slots.remove()
