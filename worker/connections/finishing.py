"""What has to be finished, whoever is cancelled meanwhile: a pool would hand out what was left half done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["finished"]

Made = TypeVar("Made")


async def finished(work: Coroutine[Any, Any, Made]) -> Made:
    """What *work* makes. Who awaits it is not cancelled before its end, even again and again as anyio does.

    Raises:
        CancelledError: it was, and *work* has ended since.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    try:
        return task.result()
    finally:
        if cancelled is not None:
            raise cancelled
