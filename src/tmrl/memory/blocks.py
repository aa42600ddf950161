"""Blocks: the memory that batches are gathered into, used again once nobody holds any part of a batch.

A block is one stretch of bytes for the rows of a batch, with one NumPy view for each array that is cut out
of it. What is handed out are tensors on these views. A tensor, and whatever is made of it without a copy,
keeps a reference to its view; so a block is idle exactly when each view's reference count is what it was when
the block was new. Without reuse, each batch of images would fault in tens of megabytes of fresh pages.
"""

import sys
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tmrl.memory.ring import Ring
from tmrl.memory.windows import Part, Window
from tmrl.rows import record_dtype
from tmrl.schema import Schema

THREADED_BYTES = 1 << 17
THREADED_ROW_BYTES = 1 << 16
"""A gather is torch's, which uses threads, if it moves at least the first in rows smaller than the second.

Measured on two idle cores, time of NumPy over that of torch: 1.05 at 51 KB in rows of 100 bytes, 1.35 at
176 KB in rows of 344, 1.4 at 14 MB in rows of 28 KB, but 0.8 at 50 MB in rows of 98 KB.
"""

MAX_BLOCKS = 4
"""Blocks kept for reuse; a training loop holds one or two batches at a time."""


def parts(schema: Schema, window: Window) -> list[Part]:
    """What is cut out of windows.

    In this order: the previous observation's, the action's, the new observation's, those of info.
    """
    layout = window.layout
    infos = [leaf for nest in schema.info.values() for leaf in nest.leaves]
    return [
        *window.observation(schema, layout.prev_obs),
        *(Part(leaf, layout.act) for leaf in schema.act.leaves),
        *window.observation(schema, layout.new_obs),
        *(Part(leaf, layout.info) for leaf in infos),
    ]


class Block:
    """Memory for the rows of `batch_size` windows, with the views through which it is filled and read."""

    def __init__(self, schema: Schema, window: Window, batch_size: int, is_pinned: bool = False) -> None:
        n_rows = window.layout.n_rows
        n = batch_size * n_rows
        n_bytes = n * schema.row_dtype.itemsize
        self.is_pinned = is_pinned
        self.memory = (
            torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy()
            if is_pinned
            else np.empty(n_bytes, np.uint8)
        )
        self.copied: Any = None
        """The event of the copy to the device that was begun last; None if none was, or it was waited for."""
        self._records = self.memory.view(record_dtype(schema.row_dtype))
        self._bytes = torch.from_numpy(self.memory).view(n, -1)
        row_bytes = schema.row_dtype.itemsize
        self._is_large = self.memory.nbytes >= THREADED_BYTES and row_bytes < THREADED_ROW_BYTES
        self.rows: NDArray[np.void] = self.memory.view(schema.row_dtype).reshape(batch_size, n_rows)
        """`(batch_size, L)` the rows of the windows."""
        self.views = [_view(self.rows, part) for part in parts(schema, window)]
        """`(batch_size, ...)` one view for each of `parts(schema, window)`."""
        self._idle_counts = self._counts()

    @property
    def is_idle(self) -> bool:
        """Whether no tensor shares this memory, and no copy reads it."""
        if self.copied is not None:
            if not self.copied.query():
                return False
            self.copied = None
        return self._counts() == self._idle_counts

    def _counts(self) -> list[int]:
        return list(map(sys.getrefcount, self.views))

    def fill(self, ring: Ring, slots: NDArray[np.int32]) -> None:
        """Gathers the ring's rows in `slots`, `(batch_size * L,)`."""
        if self._is_large and torch.get_num_threads() > 1:
            table = torch.from_numpy(ring.rows.view(np.uint8).reshape(ring.n_rows, -1))
            torch.index_select(table, 0, torch.from_numpy(slots), out=self._bytes)
        else:
            ring.gather(slots, self._records)


def _view(rows: NDArray[np.void], part: Part) -> NDArray[Any]:
    if not part.depth or isinstance(part.rows, int):
        return rows[:, part.rows][part.leaf.name]
    reached = rows[:, part.rows.start - part.depth + 1 : part.rows.stop][part.leaf.name]
    return np.moveaxis(sliding_window_view(reached, part.depth, axis=1, writeable=True), -1, 2)


class BlockPool:
    """Blocks for batches of one size.

    Args:
        schema: The layout of the rows.
        window: What a window holds.
        batch_size: Windows in a block.
        is_pinned: Whether blocks are page-locked, so that a GPU copies them while the CPU goes on.
    """

    def __init__(self, schema: Schema, window: Window, batch_size: int, is_pinned: bool = False) -> None:
        self._schema = schema
        self._window = window
        self._is_pinned = is_pinned
        self._batch_size = batch_size
        self._blocks: list[Block] = []

    def take(self) -> Block:
        """An idle block, or a new one; its content is arbitrary. Call it with the memory's lock held."""
        for block in self._blocks:
            if block.is_idle:
                return block
        block = Block(self._schema, self._window, self._batch_size, self._is_pinned)
        # The oldest one is forgotten; it lives on as long as somebody holds a part of it.
        self._blocks = [*self._blocks[1 - MAX_BLOCKS :], block]
        return block
