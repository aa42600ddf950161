"""CRC debugging on the batched path: the bytes about to be handed out against what the worker saw."""

from zlib import crc32

import numpy as np

from tmrl.integrity import crc_seed, leaf_crc
from tmrl.memory.blocks import ROWS_PER_WINDOW, Block
from tmrl.schema import Leaf, Schema


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

    def check(self, block: Block) -> tuple[int, list[str], int, int] | None:
        """Compares every window of a block.

        Returns:
            The first window that differs, the names of its leaves that do, its episode and its step; None if
            all are equal.
        """
        anchors = block.last
        expected = anchors["crc/fields"].tolist()
        terminated, truncated = anchors["terminated"].tolist(), anchors["truncated"].tolist()
        view = memoryview(block.memory)  # pyright: ignore[reportArgumentType] - the stub lacks the buffer protocol
        window_bytes = ROWS_PER_WINDOW * self._row_bytes
        for window, fields in enumerate(expected):
            base = window * window_bytes
            found = [crc32(view[base + start : base + stop], seed) for start, stop, seed in self._spans]
            found += [self._flags[terminated[window]], self._flags[truncated[window]]]
            if found != fields:
                names = [n for n, a, b in zip(self._names, found, fields, strict=True) if a != b]
                row = anchors[window]
                return window, names, int(row["crc/episode"]), int(row["crc/step"])
        return None


def _span(schema: Schema, leaf: Leaf, row: int) -> tuple[int, int, int]:
    """Where a leaf lies in a window, in bytes, and the checksum of its dtype and shape."""
    start = row * schema.row_dtype.itemsize + schema.offsets[leaf.name]
    return start, start + leaf.n_bytes, crc_seed(leaf.dtype_name, leaf.shape)
