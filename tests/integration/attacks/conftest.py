"""The outbox and the sandbox that drains are tested with, for whoever means them harm."""

from __future__ import annotations

from tests.integration.drain.conftest import (
    api,
    other,
    outbox,
    pytest_asyncio_loop_factories,
    started,
)

__all__ = ["api", "other", "outbox", "pytest_asyncio_loop_factories", "started"]
