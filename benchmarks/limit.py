"""The limit: a loop that draws indices and takes the packed rows of their transitions, and does nothing else.

It draws anchors and gathers their two rows into one block that it uses again and again: no tensors, no
checks, no episodes, no locks. `np.take` over opaque items with `mode="clip"` (the default mode copies `out`
first) is what targets are measured against; `torch.index_select` over the same bytes, which uses threads, is
shown beside it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from workloads import Episode, Workload

LIMIT = "limit, np.take"


class Limit:
    """Packed rows in one array."""

    def __init__(self, workload: Workload) -> None:
        self.rows = np.zeros(workload.capacity + 1, workload.row)
        self._next = 0

    def append(self, episode: Episode) -> None:
        slots = (self._next + np.arange(len(episode) + 1)) % len(self.rows)
        for i, leaf in enumerate(episode.obs):
            self.rows[f"obs{i}"][slots] = leaf
        for name in ("act", "rew", "terminated", "truncated"):
            self.rows[name][slots[1:]] = getattr(episode, name)
        self._next = (slots[-1] + 1) % len(self.rows)

    def gathers(self, batch_size: int) -> dict[str, Callable[[], Any]]:
        """Both gathers, by name."""
        return {
            LIMIT: take(self.rows, batch_size),
            "limit, index_select": index_select(self.rows, batch_size),
        }


def take(rows: np.ndarray, batch_size: int) -> Callable[[], Any]:
    draw = _pairs(len(rows), batch_size)
    opaque = rows.view(f"V{rows.itemsize}")
    out = np.empty(2 * batch_size, opaque.dtype)
    return lambda: np.take(opaque, draw(), mode="clip", out=out)


def index_select(rows: np.ndarray, batch_size: int) -> Callable[[], Any]:
    draw = _pairs(len(rows), batch_size)
    matrix = torch.from_numpy(rows.view(np.uint8).reshape(len(rows), -1))
    out = torch.empty((2 * batch_size, rows.itemsize), dtype=torch.uint8)
    return lambda: torch.index_select(matrix, 0, torch.from_numpy(draw()), out=out)


def _pairs(row_count: int, batch_size: int) -> Callable[[], np.ndarray]:
    """Draws the rows of a batch: first the previous ones, then the anchors."""
    rng = np.random.default_rng(0)
    pairs = np.empty((2, batch_size), np.int64)
    flat = pairs.reshape(-1)

    def draw() -> np.ndarray:
        pairs[1] = rng.integers(1, row_count, batch_size)
        np.subtract(pairs[1], 1, out=pairs[0])
        return flat

    return draw
