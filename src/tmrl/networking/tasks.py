"""Coroutines side by side."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def either(*works: Coroutine[Any, Any, None]) -> None:
    """Runs several things at once until the first ends, and raises what it raised; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
