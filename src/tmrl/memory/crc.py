"""CRC debugging on the batched path: the bytes about to be handed out against what the worker saw.

Rows that hold whole observations are compared as they lie in the block. Observations that a history rebuilds
are compared as they are cut.
"""

from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tmrl.history_rules import Quantized
from tmrl.integrity import crc_seed, leaf_crc
from tmrl.memory.blocks import Block, parts
from tmrl.memory.windows import Window
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
        window: What the windows hold.

    Raises:
        ValueError: The rows hold none.
    """

    def __init__(self, schema: Schema, window: Window) -> None:
        if not schema.with_crc:
            raise ValueError("crc_debug must be chosen when the memory is made: its rows hold no checksums")
        self._names = schema.crc_names
        self._row_bytes = schema.row_dtype.itemsize
        self._further = 0 if schema.history is None else schema.history.behind
        self._rebuilt = [] if schema.history is None else _rebuilt(schema, window)
        whole = [] if self._rebuilt else schema.obs.leaves
        previous = [_span(schema, leaf, 0) for leaf in whole]
        act = [_span(schema, leaf, 1) for leaf in schema.act.leaves]
        obs = [_span(schema, leaf, 1) for leaf in whole]
        reward = next(leaf for leaf in schema.leaves if leaf.name == "rew")
        # In the order of `crc_names`; the flags come after, because a row holds them as one byte each.
        self._spans = [*previous, *act, *obs, _span(schema, reward, 1)]
        rebuilt = [observed.column for observed in self._rebuilt]
        self._columns = [column for column in range(len(self._names)) if column not in rebuilt]
        self._flags = (leaf_crc(np.float32(0)), leaf_crc(np.float32(1)))

    def check(
        self,
        block: Block,
        slots: NDArray[np.int32],
        back: NDArray[np.int32],
        n_rows: int | NDArray[np.int64],
    ) -> tuple[int, Mismatch | None]:
        """Compares every transition in the windows of a block.

        Args:
            block: A filled one.
            slots: `(batch_size, L)` where its rows came from.
            back: Links, by slot.
            n_rows: Rows of the ring, or `(batch_size, 1)` of the ring of each window.

        Returns:
            How many are equal, and the first one that differs.
        """
        view = memoryview(block.memory)  # pyright: ignore[reportArgumentType] - the stub lacks the buffer protocol
        links = back[slots[:, 1:]]
        is_joined = (links > 0) & ((slots[:, 1:] - links - slots[:, :-1]) % n_rows == 0)
        is_joined[:, : self._further] = False  # whose observations cannot be rebuilt from the block
        windows, places = np.nonzero(is_joined)
        if (differing := self._differing(block, is_joined)) is not None:
            return 0, differing
        rows = block.rows[windows, places + 1]
        expected = rows["crc/fields"][:, self._columns].tolist()
        terminated, truncated = rows["terminated"].tolist(), rows["truncated"].tolist()
        starts = ((windows * slots.shape[1] + places) * self._row_bytes).tolist()
        for i, (base, fields) in enumerate(zip(starts, expected, strict=True)):
            found = [crc32(view[base + start : base + stop], seed) for start, stop, seed in self._spans]
            found += [self._flags[terminated[i]], self._flags[truncated[i]]]
            if found != fields:
                pairs = zip(self._columns, found, fields, strict=True)
                names = [self._names[column] for column, a, b in pairs if a != b]
                row = rows[i]
                return i, Mismatch(int(windows[i]), names, int(row["crc/episode"]), int(row["crc/step"]))
        return len(starts), None

    def _differing(self, block: Block, is_joined: NDArray[np.bool_]) -> Mismatch | None:
        """The first leaf of a rebuilt observation that differs."""
        for leaf in self._rebuilt:
            view = block.views[leaf.view]
            for step, place in enumerate(leaf.places):
                # A single observation is always real; among several there may be padding.
                is_real = is_joined[:, place - 1] | leaf.is_single
                rows = block.rows[:, place]
                expected = rows["crc/fields"][:, leaf.column]
                for window in np.flatnonzero(is_real).tolist():
                    value = view[window] if leaf.is_single else view[window, step]
                    kept = value if leaf.codec is None else leaf.codec.decode(value)
                    if crc32(kept.tobytes(), leaf.seed) != expected[window]:
                        row, name = rows[window], self._names[leaf.column]
                        return Mismatch(window, [name], int(row["crc/episode"]), int(row["crc/step"]))
        return None


@dataclass(frozen=True, slots=True)
class _RebuiltLeaf:
    """One leaf of the previous or of the new observation, and which rows hold its checksums."""

    view: int
    column: int
    places: list[int]
    is_single: bool
    seed: int
    codec: Quantized | None


def _rebuilt(schema: Schema, window: Window) -> list[_RebuiltLeaf]:
    """The leaves of both observations, in the order of `parts` and, among others, of `crc_names`."""
    layout, cut = window.layout, parts(schema, window)
    leaves: list[_RebuiltLeaf] = []
    second = len(schema.seen.leaves) + len(schema.act.leaves)
    # The checksums of a previous observation are in the row after it.
    for first, where, ahead in ((0, layout.prev_obs, 1), (second, layout.new_obs, 0)):
        for i, leaf in enumerate(schema.seen.leaves, first):
            rows = window.observed(leaf, where)
            is_single = isinstance(rows, int)
            places = [rows] if isinstance(rows, int) else range(rows.start, rows.stop)
            seed = crc_seed(leaf.dtype_name, leaf.shape)
            leaves.append(
                _RebuiltLeaf(i, i, [place + ahead for place in places], is_single, seed, cut[i].codec)
            )
    return leaves


def _span(schema: Schema, leaf: Leaf, row: int) -> tuple[int, int, int]:
    """Where a leaf lies in a window, in bytes, and the checksum of its dtype and shape."""
    start = row * schema.row_dtype.itemsize + schema.offsets[leaf.name]
    return start, start + leaf.n_bytes, crc_seed(leaf.dtype_name, leaf.shape)
