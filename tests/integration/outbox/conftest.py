"""An outbox with one account for each test, and a second connection to it. Its clock stands still."""

from __future__ import annotations

import pytest

from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Connect
from tests.still import template

__all__ = ["template"]


@pytest.fixture
def outbox(connect: Connect) -> Outbox:
    outbox = Outbox(connect())
    outbox.add_account("default")
    return outbox


@pytest.fixture
def other(connect: Connect, outbox: Outbox) -> Outbox:
    """The same outbox through a second connection."""
    del outbox  # made first, because it writes the account
    return Outbox(connect())
