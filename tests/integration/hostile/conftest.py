"""The outbox, the sandbox and the event loop that drains are tested with, for input that means harm."""

from __future__ import annotations

from tests.integration.drain.conftest import (
    api,
    outbox,
    pytest_asyncio_loop_factories,
    started,
)

__all__ = ["api", "outbox", "pytest_asyncio_loop_factories", "started"]
