"""CRC debugging on the batched path: the bytes about to be handed out against what the worker saw."""

from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tmrl.integrity import crc_seed, leaf_crc
from tmrl.memory.blocks import Block
from tmrl.schema import Leaf, Schema


class Mismatch(NamedTuple):
    """A transition that is not the one that its worker saw."""

    window: int
    names: list[str]
    """Leaves that differ."""
    episode: int
    step: int


class BatchChecker:
    """Recomputes the checksums of gathered windows; about 0.5 ms for 256 windows of a small row.

    Args:
        schema: A schema with checksums.

    Raises:
        ValueError: The rows hold none.
    """

    def __init__(self, schema: Schema) -> None:
        if not schema.with_crc:
            raise ValueError("crc_debug must be chosen when the memory is made: its rows hold no checksums")
        self._names = schema.crc_names
        self._row_bytes = schema.row_dtype.itemsize
        previous = [_span(schema, leaf, 0) for leaf in schema.obs.leaves]
        act = [_span(schema, leaf, 1) for leaf in schema.act.leaves]
        obs = [_span(schema, leaf, 1) for leaf in schema.obs.leaves]
        reward = next(leaf for leaf in schema.leaves if leaf.name == "rew")
        # In the order of `crc_names`; the flags come after, because a row holds them as one byte each.
        self._spans = [*previous, *act, *obs, _span(schema, reward, 1)]
        self._flags = (leaf_crc(np.float32(0)), leaf_crc(np.float32(1)))

    def check(
        self, block: Block, slots: NDArray[np.int32], back: NDArray[np.int32]
    ) -> tuple[int, Mismatch | None]:
        """Compares every transition in the windows of a block.

        Args:
            block: A filled one.
            slots: `(batch_size, L)` where its rows came from.
            back: Links of the ring, by slot.

        Returns:
            How many are equal, and the first one that differs.
        """
        view = memoryview(block.memory)  # pyright: ignore[reportArgumentType] - the stub lacks the buffer protocol
        links = back[slots[:, 1:]]
        is_joined = (links > 0) & ((slots[:, 1:] - links - slots[:, :-1]) % len(back) == 0)
        windows, places = np.nonzero(is_joined)
        rows = block.rows[windows, places + 1]
        expected = rows["crc/fields"].tolist()
        terminated, truncated = rows["terminated"].tolist(), rows["truncated"].tolist()
        starts = ((windows * slots.shape[1] + places) * self._row_bytes).tolist()
        for i, (base, fields) in enumerate(zip(starts, expected, strict=True)):
            found = [crc32(view[base + start : base + stop], seed) for start, stop, seed in self._spans]
            found += [self._flags[terminated[i]], self._flags[truncated[i]]]
            if found != fields:
                names = [n for n, a, b in zip(self._names, found, fields, strict=True) if a != b]
                row = rows[i]
                return i, Mismatch(int(windows[i]), names, int(row["crc/episode"]), int(row["crc/step"]))
        return len(starts), None


def _span(schema: Schema, leaf: Leaf, row: int) -> tuple[int, int, int]:
    """Where a leaf lies in a window, in bytes, and the checksum of its dtype and shape."""
    start = row * schema.row_dtype.itemsize + schema.offsets[leaf.name]
    return start, start + leaf.n_bytes, crc_seed(leaf.dtype_name, leaf.shape)
