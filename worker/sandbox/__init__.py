"""An imitation of the EnableX API on 127.0.0.1, to test against: nobody's phone rings.

    with Sandbox(SandboxSettings(faults=Faults(chances={"drop": 0.1}), seed=7)) as api:
        ...                                  # send to api.url, as APP ID "sandbox", APP KEY "sandbox"
        assert api.executed_twice() == []    # every phone rang once

or ``ringonce sandbox`` on the command line. It keeps the documented promise about idempotency keys to the
letter (``idempotency``), breaks connections in every way that a network and a server can (``faults``), and
can prove what it has executed (``ledger``), of which it tells a receiver (``webhooks``). What the documents
leave open is a switch (``switches``), and everything can be steered over HTTP while it runs (``control``;
``GET /_sandbox`` lists it).

The worker itself never needs this package; it comes with ``pip install ringonce[sandbox]``.
"""

from __future__ import annotations

from worker.sandbox.faults import Fault, Faults, Step
from worker.sandbox.idempotency import ClockFrom, Concurrent
from worker.sandbox.ledger import Counts, Execution, Outcome, Repeat, Request
from worker.sandbox.server import serve
from worker.sandbox.switches import Credential, Envelope, Gate, SandboxSettings, Standing
from worker.sandbox.threaded import Sandbox
from worker.sandbox.webhooks import Told, Webhooks

__all__ = [
    "ClockFrom",
    "Concurrent",
    "Counts",
    "Credential",
    "Envelope",
    "Execution",
    "Fault",
    "Faults",
    "Gate",
    "Outcome",
    "Repeat",
    "Request",
    "Sandbox",
    "SandboxSettings",
    "Standing",
    "Step",
    "Told",
    "Webhooks",
    "serve",
]
