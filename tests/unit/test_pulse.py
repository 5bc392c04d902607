from __future__ import annotations

import math
import os

from tests.clocks import HandSetClock
from worker.pulse import Pulse


def test_a_pulse_that_never_beat_is_older_than_all_times() -> None:
    assert Pulse().beat_at == -math.inf


def test_a_beat_in_a_child_is_seen_by_its_parent() -> None:
    clock = HandSetClock(1.5)
    pulse = Pulse(clock=clock)
    child = os.fork()
    if child == 0:
        clock.now = 7.25
        pulse.beat()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pulse.beat_at == 7.25
