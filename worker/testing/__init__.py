"""For the tests of apps that enqueue: an outbox, the imitation of the API, "deliver now", and what to assert.

    def test_an_order_rings_the_customer(ringonce):
        with psycopg.connect(ringonce.url) as conn:
            place_order(conn, "+919876543210")
        ringonce.assert_enqueued("voice.call", {"to": ["+919876543210"]})
        ringonce.sandbox.script(["drop"])     # executed, and its answer lost
        ringonce.drain()
        ringonce.assert_sent("voice.call")    # once, all the same

The fixtures come with a pytest plugin (``pytest11/``), which every run loads that finds ringonce installed:

    ringonce_postgres ──> ringonce_template ──> ringonce_database ──┐
    (session)             (session)             (each test)         ├──> ringonce_outbox ──> ringonce
                                                ringonce_sandbox ───┘

Each may be overridden by one of the same name. Nothing that is delivered leaves this machine.

Decisions:
    2026-11-28: the plugin is a module of its own beside the package. A run that uses none of its fixtures
    imports nothing of ours, and an app's own ``worker.py``, which hides the package, stops no run.
    2026-11-28: an outbox is emptied only in a database whose name says that it is for tests. Nothing else
    tells the outbox of a test from one that holds the keys of real calls.
"""

from __future__ import annotations

from worker.testing.expecting import Named
from worker.testing.kit import Ringonce
from worker.testing.operations import EnqueuedOperation

__all__ = ["EnqueuedOperation", "Named", "Ringonce"]
