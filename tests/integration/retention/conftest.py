"""An outbox with two accounts for each test, and a second connection to it."""

from __future__ import annotations

import pytest

from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Connect


@pytest.fixture
def outbox(connect: Connect) -> Outbox:
    outbox = Outbox(connect())
    outbox.add_account("default")
    outbox.add_account("partner")
    return outbox


@pytest.fixture
def other(connect: Connect, outbox: Outbox) -> Outbox:
    """The same outbox through a second connection."""
    del outbox  # made first, because it writes the accounts
    return Outbox(connect())
