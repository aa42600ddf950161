"""The event loop of the line: one thread of the process runs it, for all servers and lines there are.

gRPC's asyncio works in one loop of a process only; so there is one, begun when it is first needed.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_owner = 0


def loop() -> asyncio.AbstractEventLoop:
    """The loop, running."""
    global _loop, _owner
    with _lock:
        if _loop is None or _owner != os.getpid():
            _loop, _owner = asyncio.new_event_loop(), os.getpid()
            threading.Thread(target=_run, args=(_loop,), name="tmrl-line", daemon=True).start()
        return _loop


def _run(running: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(running)
    running.run_forever()


def poke(event: asyncio.Event) -> None:
    """Sets an event of the loop, from any thread."""
    loop().call_soon_threadsafe(event.set)


def start(work: Coroutine[Any, Any, T]) -> "Future[T]":
    """Runs a coroutine in the loop, and returns its future; its `cancel` cancels it."""
    return asyncio.run_coroutine_threadsafe(work, loop())


def run(work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
    """Runs a coroutine in the loop and waits for what it returns.

    Raises:
        TimeoutError: It did not end in time; it is cancelled.
    """
    future = start(work)
    try:
        return future.result(timeout_s)
    except TimeoutError:
        future.cancel()
        raise
