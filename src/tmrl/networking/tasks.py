"""Coroutines side by side."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

END_S = 2.0
"""How long a cancelled task may take to end."""


async def either(*works: Coroutine[Any, Any, None]) -> None:
    """Runs several things until the first ends, and raises what it raised; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancelled(tasks)
    # An error knows this frame: they would hold each other, and all that a peer sent, for a while.
    tasks.clear()
    while done:
        done.pop().result()


async def _cancelled(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
        task.add_done_callback(look_at)
    await asyncio.wait(tasks)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Awaits something that goes on to its end, whatever becomes of who awaits it."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(look_at)
    return await asyncio.shield(task)


def look_at(task: "asyncio.Future[Any]") -> None:
    """Takes note of how something ended that nobody awaits any more, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()


async def end(futures: "Iterable[Future[None]]") -> None:
    """Cancels tasks that were started from another thread, and waits until they have ended."""
    tasks = [asyncio.wrap_future(future) for future in futures]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=END_S)
