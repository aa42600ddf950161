"""Hand-out: a block of gathered rows becomes the six parts of a batch.

Observations, actions and info are views of the block, but for what a `History` has quantized; on an
accelerator the block crosses the bus in one copy and is cut there. Rewards and flags are dense float32
copies, so that keeping a reward does not keep a block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tmrl.integrity import CrcRecord
from tmrl.memory.blocks import Block, BlockPool, parts
from tmrl.memory.windows import Part, Window
from tmrl.nest import flatten, unflatten
from tmrl.schema import Leaf, Nest, Schema

Six = tuple[Any, Any, Any, Any, Any, Any]


class HandOut:
    """Cuts batches of one size out of blocks.

    Args:
        schema: The layout of the rows.
        window: What a window holds.
        batch_size: Windows in a block.
        device: Where the tensors go.
        contiguous: Whether the tensors are dense copies instead of views of the block.
    """

    def __init__(
        self, schema: Schema, window: Window, batch_size: int, device: Any, contiguous: bool
    ) -> None:
        self._key = (batch_size, device, contiguous)
        self._schema = schema
        self._window = window
        self._device = torch.device(device)
        self._is_contiguous = contiguous
        self._has_bfloat16 = any(leaf.is_bfloat16 for leaf in schema.leaves)
        self._nests = _nests(schema)
        n_rows = window.layout.n_rows
        cut_parts = parts(schema, window)
        self._cuts = [_cut(schema, batch_size, n_rows, part) for part in cut_parts]
        # A tensor, not a number: an accelerator would multiply by the reciprocal, which rounds otherwise.
        self._divisors = {
            i: torch.tensor(part.codec.scale, dtype=_dtype(part.codec.restored), device=self._device)
            for i, part in enumerate(cut_parts)
            if part.codec is not None
        }
        self.pool = BlockPool(schema, window, batch_size, self._device.type == "cuda")

    def fits(self, batch_size: int, device: Any, contiguous: bool) -> bool:
        """Whether this is what cuts such batches."""
        return self._key == (batch_size, device, contiguous)

    def six(
        self, block: Block, slots: NDArray[np.int32], back: NDArray[np.int32]
    ) -> tuple[Six, dict[str, Any], dict[str, Any]]:
        """The six parts of a batch, its info and what else its window says.

        Args:
            block: A filled one.
            slots: `(batch_size, L)` where its rows came from.
            back: Links of the ring, by slot.
        """
        scalars = self._window.scalars(block.rows, slots, back)
        leaves = self._leaves(block)
        prev_obs, new_act, new_obs, *infos = [_nest(leaves, *part) for part in self._nests]
        info = dict(zip(self._schema.info, infos, strict=True)) if infos else {}
        rew, terminated, truncated = self._dense(scalars[:3])
        beside = {name: torch.from_numpy(array).to(self._device) for name, array in scalars.beside.items()}
        return (prev_obs, new_act, rew, new_obs, terminated, truncated), info, beside

    def one(self, block: Block, slots: NDArray[np.int32], back: NDArray[np.int32]) -> tuple[Any, ...]:
        """The documented seven values of the one window of a block, as copies; for the CPU."""
        six, info, _ = self.six(block, slots, back)
        leaves, treespec = flatten((*six, info))
        return unflatten(treespec, [_one_value(leaf[0]) for leaf in leaves])

    def _dense(self, columns: Sequence[NDArray[np.float32]]) -> Sequence[torch.Tensor]:
        """Rewards and the two flags."""
        if self._device.type != "cpu":
            return torch.from_numpy(np.stack(columns)).to(self._device).unbind()
        return list(map(torch.from_numpy, columns))

    def _leaves(self, block: Block) -> list[torch.Tensor]:
        """Tensors of all `parts` of the schema."""
        if self._device.type != "cpu":
            leaves = self._cut_on_device(block)
        else:
            leaves = list(map(torch.from_numpy, block.views))
            if self._has_bfloat16:
                leaves = [leaf.view(cut.dtype) for leaf, cut in zip(leaves, self._cuts, strict=True)]
        for i, divisor in self._divisors.items():
            leaves[i] = leaves[i].to(divisor.dtype) / divisor
        return [leaf.contiguous() for leaf in leaves] if self._is_contiguous else leaves

    def _cut_on_device(self, block: Block) -> list[torch.Tensor]:
        copy = torch.from_numpy(block.memory).to(self._device, non_blocking=block.is_pinned)
        if block.is_pinned:
            block.copied = torch.cuda.Event()
            block.copied.record(torch.cuda.current_stream(self._device))
        typed = {dtype: copy.view(dtype) for dtype in {cut.dtype for cut in self._cuts}}
        return [typed[cut.dtype].as_strided(cut.size, cut.stride, cut.offset) for cut in self._cuts]


def _nests(schema: Schema) -> list[tuple[Nest, int, int]]:
    """The nests of a batch, each with the range of its leaves among the `parts`."""
    nests = [schema.seen, schema.act, schema.seen, *schema.info.values()]
    stops = list(accumulate(len(nest.leaves) for nest in nests))
    return [(nest, stop - len(nest.leaves), stop) for nest, stop in zip(nests, stops, strict=True)]


def _nest(leaves: list[torch.Tensor], nest: Nest, start: int, stop: int) -> Any:
    return leaves[start] if nest.is_leaf else nest.pack_nest(leaves[start:stop])


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where one leaf of a batch lies in a block, in items of its dtype."""

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def _cut(schema: Schema, batch_size: int, n_rows: int, part: Part) -> _Cut:
    leaf = part.leaf
    row_items = schema.row_dtype.itemsize // leaf.dtype.itemsize
    # Strides of a dense array of the leaf's shape, behind the distance from window to window.
    dense = [math.prod(leaf.shape[axis + 1 :]) for axis in range(len(leaf.shape))]
    places = range(n_rows)[part.rows]
    first, steps = (places, ()) if isinstance(places, int) else (places.start, (len(places),))
    if part.depth:
        first, steps = first - part.depth + 1, (*steps, part.depth)
    offset = first * row_items + schema.offsets[leaf.name] // leaf.dtype.itemsize
    strides = (n_rows * row_items, *(row_items for _ in steps), *dense)
    return _Cut(_dtype(leaf.dtype_name), (batch_size, *steps, *leaf.shape), strides, offset)


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)


def one_transition(
    schema: Schema, previous: Any, anchor: Any, worker: str
) -> tuple[Any, Any, Any, Any, bool, bool, dict[str, Any]]:
    """The documented seven values of one transition, from private copies of its two rows."""
    info = {key: _one_nest(nest, anchor) for key, nest in schema.info.items()}
    if schema.with_crc:
        fields = dict(zip(schema.crc_names, anchor["crc/fields"].tolist(), strict=True))
        episode, step = int(anchor["crc/episode"]), int(anchor["crc/step"])
        info["crc"] = CrcRecord(worker=worker, episode=episode, step=step, fields=fields)
    return (
        _one_nest(schema.obs, previous),
        _one_nest(schema.act, anchor),
        anchor["rew"],
        _one_nest(schema.obs, anchor),
        bool(anchor["terminated"]),
        bool(anchor["truncated"]),
        info,
    )


def _one_value(leaf: torch.Tensor) -> Any:
    if leaf.dtype == torch.bfloat16:
        return leaf.clone()
    array = leaf.numpy()
    return array.copy() if array.ndim else array[()]


def _one_nest(nest: Nest, row: Any) -> Any:
    return nest.pack_nest(_one_leaf(leaf, row[leaf.name]) for leaf in nest.leaves)


def _one_leaf(leaf: Leaf, value: Any) -> Any:
    if leaf.is_bfloat16:
        return torch.from_numpy(np.array(value, np.uint16)).view(torch.bfloat16)
    # An array of its own, aligned and contiguous; a number stays a NumPy scalar.
    return value.copy()
