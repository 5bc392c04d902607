"""The fixtures of tests with real worker processes."""

from __future__ import annotations

from tests.acceptance.workers import own_redis, start_worker

__all__ = ["own_redis", "start_worker"]
