"""Blocks: the memory that batches are gathered into, reused once nobody holds any part of a batch.

A block is one stretch of bytes for the rows of a batch. What is handed out are tensors on a *loan* of it, an
array object of its own, so that the block comes back to the pool exactly when the last tensor that shares its
memory is gone. Without the pool, each batch of images would fault in tens of megabytes of fresh pages.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from tmrl.memory.ring import Ring, record_dtype

THREADED_BYTES = 1 << 20
"""Above this many bytes a gather is given to torch, whose copy uses threads; NumPy's take is faster below."""

MAX_IDLE = 4
"""Blocks kept for reuse; a training loop holds one or two batches at a time."""


class Block:
    """Memory for `n` rows, with the views through which it is filled and read."""

    def __init__(self, row_dtype: np.dtype[np.void], n: int) -> None:
        self.n = n
        self.memory = np.empty(n * row_dtype.itemsize, np.uint8)
        self.rows = self.memory.view(row_dtype)
        self._records = self.memory.view(record_dtype(row_dtype))
        self._bytes = torch.from_numpy(self.memory).view(n, row_dtype.itemsize)

    def fill(self, ring: Ring, slots: NDArray[np.int32]) -> None:
        """Gathers the ring's rows in `slots`, `(n,)`."""
        if self.memory.nbytes < THREADED_BYTES:
            ring.gather(slots, self._records)
        else:
            table = torch.from_numpy(ring.rows.view(np.uint8).reshape(ring.n_rows, -1))
            torch.index_select(table, 0, torch.from_numpy(slots), out=self._bytes)


class BlockPool:
    """Blocks of one size at a time.

    Args:
        row_dtype: A schema's row dtype.
    """

    def __init__(self, row_dtype: np.dtype[np.void]) -> None:
        self._row_dtype = row_dtype
        # Blocks come back from whichever thread drops the last tensor; deque operations are atomic.
        self._idle: deque[Block] = deque(maxlen=MAX_IDLE)

    def take(self, n: int) -> Block:
        """An idle block for `n` rows, or a new one; its content is arbitrary."""
        while self._idle:
            try:
                block = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if block.n == n:
                return block
        return Block(self._row_dtype, n)

    def lend(self, block: Block) -> torch.Tensor:
        """The block's bytes as a tensor; when its storage is freed, the block is idle again."""
        loan = block.memory.view(_Loan)
        loan.end = partial(self._idle.append, block)
        return torch.from_numpy(loan)


class _Loan(NDArray[np.uint8] if TYPE_CHECKING else np.ndarray):
    """An array that says when it is gone; three times cheaper than `weakref.finalize`."""

    end: Callable[[], None]

    def __del__(self) -> None:
        self.end()
