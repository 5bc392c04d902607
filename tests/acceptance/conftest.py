"""The fixtures of tests with real worker processes."""

from __future__ import annotations

from tests.acceptance.brokers import broker
from tests.acceptance.canaries import guarded, locked_redis
from tests.acceptance.workers import own_redis, start_worker

__all__ = ["broker", "guarded", "locked_redis", "own_redis", "start_worker"]
