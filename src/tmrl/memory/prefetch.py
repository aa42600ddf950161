"""Prefetch: batches are drawn by a thread before they are asked for, and are the same as without it.

What is drawn early may be drawn too early: a row that is appended before the batch is handed out could have
been in it. So whatever changes what a draw depends on takes back the batches that wait, and the sampler to
where it stood before the first of them; they are drawn again from the same random numbers.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from tmrl.memory.state import MemoryState


class _Prepared(NamedTuple):
    mark: Any
    """Where the sampler stood before the draw."""
    key: Any
    """What the batch was drawn for; another batch size asks for another batch."""
    batch: Any
    error: BaseException | None


class Prefetcher:
    """A thread that keeps up to `depth` batches ready.

    Args:
        depth: Most batches that wait.
        lock: The memory's; held while a batch is drawn, and by whoever calls `take_back`.
        draw: Draws a batch, with the lock held.
        key: Tells for what batches are drawn now.
        mark: Tells where the sampler stands.
        reset: Puts the sampler back there.
    """

    def __init__(
        self,
        depth: int,
        lock: Any,
        draw: Callable[[], Any],
        key: Callable[[], Any],
        mark: Callable[[], Any],
        reset: Callable[[Any], None],
    ) -> None:
        self._depth = depth
        self._lock = lock
        self._draw, self._key, self._mark, self._reset = draw, key, mark, reset
        self._ready: deque[_Prepared] = deque()
        self._changed = threading.Condition(lock)
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def get(self) -> Any:
        """The next batch, as soon as it is ready.

        Raises:
            Exception: What the draw raised.
        """
        with self._changed:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="tmrl-prefetch", daemon=True)
                self._thread.start()
            if self._ready and self._ready[0].key != self._key():
                self.take_back()
            if not self._ready:
                # Rather than wait for the thread: it is the same batch, and nobody is woken up.
                batch, error = self._draw(), None
            else:
                _, _, batch, error = self._ready.popleft()
            self._changed.notify_all()
            if error is not None:
                raise error
            return batch

    def take_back(self) -> None:
        """Forgets the batches that wait, as if they had never been drawn. The lock is held."""
        if self._ready:
            self._reset(self._ready[0].mark)
            self._ready.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._has_room())
                if self._is_closed:
                    return
                mark, key = self._mark(), self._key()
                try:
                    self._ready.append(_Prepared(mark, key, self._draw(), None))
                except Exception as error:  # raised where the batch is asked for
                    self._ready.append(_Prepared(mark, key, None, error))

    def _has_room(self) -> bool:
        is_failing = bool(self._ready) and self._ready[-1].error is not None
        return len(self._ready) < self._depth and not is_failing

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self.take_back()
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()


def prefetcher_of(memory: Any, state: MemoryState, draw: Callable[[], Any], depth: int) -> Prefetcher | None:
    """The prefetcher of a `ReplayMemory`: it starts anew whenever a setting of its batches changes.

    None at a depth of 0.

    Raises:
        ValueError: The depth is below 0.
    """
    if depth < 0:
        raise ValueError(f"prefetch must be at least 0, got {depth}")
    if depth == 0:
        return None
    sampler = state.sampler

    def reset(mark: Any) -> None:
        mark, memory.crc_checked = mark
        sampler.reset(mark)

    prefetcher = Prefetcher(
        depth,
        state.lock,
        draw,
        key=lambda: (memory.batch_size, memory.device, memory.contiguous, memory.sample_preprocessor),
        mark=lambda: (sampler.mark(), memory.crc_checked),
        reset=reset,
    )
    state.before_change = prefetcher.take_back
    return prefetcher
