"""Hand-out: a block of gathered rows becomes the six parts of a batch.

Observations, actions and info are views of the block, cut with `as_strided`; on an accelerator the block
crosses the bus in one copy and is cut there. Rewards and flags are dense float32 copies, so that keeping a
reward does not keep a block alive.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tmrl.integrity import CrcRecord
from tmrl.memory.blocks import Block
from tmrl.schema import Leaf, Nest, Schema

ROWS_PER_WINDOW = 2
DENSE = ("rew", "terminated", "truncated")


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where one leaf of a batch lies in a block, in items of its dtype."""

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class HandOut:
    """Cuts batches of one size out of blocks.

    Args:
        schema: The layout of the rows.
        batch_size: Windows in a block.
        device: Where the tensors go.
        contiguous: Whether the tensors are dense copies instead of views of the block.
    """

    def __init__(self, schema: Schema, batch_size: int, device: Any, contiguous: bool) -> None:
        self._key = (batch_size, device, contiguous)
        self._schema = schema
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._contiguous = contiguous
        self._previous = [self._cut(leaf, 0) for leaf in schema.obs.leaves]
        self._new = [self._cut(leaf, 1) for leaf in schema.obs.leaves]
        self._act = [self._cut(leaf, 1) for leaf in schema.act.leaves]
        self._info = {key: [self._cut(leaf, 1) for leaf in nest.leaves] for key, nest in schema.info.items()}
        cuts = [*self._previous, *self._act, *(cut for info in self._info.values() for cut in info)]
        self._dtypes = {cut.dtype for cut in cuts}

    def fits(self, batch_size: int, device: Any, contiguous: bool) -> bool:
        """Whether this is what cuts such batches."""
        return self._key == (batch_size, device, contiguous)

    def six(self, block: Block, loan: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The six parts of a batch and its info, from a filled block and the loan of it."""
        if self._device.type != "cpu":
            loan = loan.to(self._device)
        typed = {dtype: loan.view(dtype) for dtype in self._dtypes}
        rew, terminated, truncated = self._dense(block)
        prev_obs = self._nest(self._schema.obs, self._previous, typed)
        new_act = self._nest(self._schema.act, self._act, typed)
        new_obs = self._nest(self._schema.obs, self._new, typed)
        info = {key: self._nest(nest, self._info[key], typed) for key, nest in self._schema.info.items()}
        return (prev_obs, new_act, rew, new_obs, terminated, truncated), info

    def _dense(self, block: Block) -> list[torch.Tensor]:
        last = block.rows[ROWS_PER_WINDOW - 1 :: ROWS_PER_WINDOW]
        tensors = [torch.from_numpy(last[name].astype(np.float32)) for name in DENSE]
        return tensors if self._device.type == "cpu" else [tensor.to(self._device) for tensor in tensors]

    def _nest(self, nest: Nest, cuts: list[_Cut], typed: dict[torch.dtype, torch.Tensor]) -> Any:
        leaves = [typed[cut.dtype].as_strided(cut.size, cut.stride, cut.offset) for cut in cuts]
        if self._contiguous:
            leaves = [leaf.contiguous() for leaf in leaves]
        return nest.pack_nest(leaves)

    def _cut(self, leaf: Leaf, row: int) -> _Cut:
        itemsize = leaf.dtype.itemsize
        row_items = self._schema.row_dtype.itemsize // itemsize
        # Strides of a dense array of the leaf's shape, behind the distance from window to window.
        dense = [math.prod(leaf.shape[axis + 1 :]) for axis in range(len(leaf.shape))]
        stride = (ROWS_PER_WINDOW * row_items, *dense)
        offset = row * row_items + self._schema.offsets[leaf.name] // itemsize
        return _Cut(torch_dtype(leaf), (self._batch_size, *leaf.shape), stride, offset)


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


def _one_nest(nest: Nest, row: Any) -> Any:
    return nest.pack_nest(_one_leaf(leaf, row[leaf.name]) for leaf in nest.leaves)


def _one_leaf(leaf: Leaf, value: Any) -> Any:
    if leaf.is_bfloat16:
        return torch.from_numpy(np.array(value, np.uint16)).view(torch.bfloat16)
    # An array of its own, aligned and contiguous; a number stays a NumPy scalar.
    return value.copy()


def torch_dtype(leaf: Leaf) -> torch.dtype:
    """The dtype of a leaf's tensors."""
    return getattr(torch, leaf.dtype_name)
