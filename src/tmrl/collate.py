"""Collation: a list of samples becomes one nest of torch tensors with the batch as first dimension.

The type of the first sample decides at each level, as documented: tensors and arrays are stacked with their
dtype, containers are collated element by element and keep their type, and anything else goes through
`np.array`, so that python floats become float64, bools bool and ints int64. Every tensor is freshly made and
shares no memory with the samples, so that no batch changes with them.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch

Device = torch.device | str | int | None


def collate_torch(batch: Sequence[Any], device: Device = None) -> Any:
    """Collates samples into one sample of tensors.

    Args:
        batch: Samples, all nested alike: any nest of dicts, tuples, namedtuples and lists with tensors,
            arrays, numbers, or objects with `__torch_tensor__()` as leaves. Strides of any sign will do.
        device: Where the tensors go; `None` leaves arrays on the CPU and tensors where they are.

    Returns:
        A nest like the first sample's; a leaf of shape `S` becomes a tensor `(len(batch), *S)` of the same
        dtype. Owned by the caller.

    Raises:
        ValueError: The batch is empty, or its samples differ in nest or shape; the message names the leaf.
        TypeError: A leaf cannot be a tensor; the message names it by its path, as in `0/camera`.
    """
    if len(batch) == 0:
        raise ValueError("a batch must hold at least 1 sample, got 0; append to the memory before sampling")
    return _collate(batch, device, "")


def _collate(column: Sequence[Any], device: Device, path: str) -> Any:
    first = column[0]
    if isinstance(first, torch.Tensor):
        return _stack_tensors(column, device, path)
    if hasattr(first, "__torch_tensor__"):
        return _stack_tensors([leaf.__torch_tensor__() for leaf in column], device, path)
    if isinstance(first, Mapping):
        return _collate_mapping(column, device, path)
    if isinstance(first, Sequence) and not isinstance(first, str | bytes | bytearray | memoryview):
        return _collate_sequence(column, device, path)
    return _stack_arrays(column, device, path)


def _collate_mapping(column: Sequence[Any], device: Device, path: str) -> Any:
    first = column[0]
    if not all(isinstance(nest, Mapping) and nest.keys() == first.keys() for nest in column):
        raise ValueError(
            f"samples of one batch must have the same keys, but{_at(path)} some lack or exceed {list(first)}"
        )
    collated = {key: _collate([nest[key] for nest in column], device, _join(path, str(key))) for key in first}
    if not isinstance(first, MutableMapping):
        return type(first)(collated)
    # A copy of the first keeps what else makes up its type, such as a defaultdict's factory.
    nest = copy(first)
    nest.update(collated)
    return nest


def _collate_sequence(column: Sequence[Any], device: Device, path: str) -> Any:
    first = column[0]
    if not all(isinstance(nest, Sequence) and len(nest) == len(first) for nest in column):
        raise ValueError(
            f"samples of one batch must have as many entries, but{_at(path)} some have not {len(first)}"
        )
    names = getattr(first, "_fields", range(len(first)))
    entries = zip(names, zip(*column, strict=True), strict=True)
    collated = [_collate(entry, device, _join(path, str(name))) for name, entry in entries]
    make = getattr(type(first), "_make", type(first))
    return make(collated)


def _stack_tensors(column: Sequence[Any], device: Device, path: str) -> torch.Tensor:
    try:
        stacked = torch.stack(tuple(column))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"tensors of one batch must be of one shape, but{_at(path)}: {error}") from error
    return stacked if device is None else stacked.to(device)


def _stack_arrays(column: Sequence[Any], device: Device, path: str) -> torch.Tensor:
    try:
        stacked = np.stack(column) if isinstance(column[0], np.ndarray) else np.array(column)
    except ValueError as error:
        shapes = sorted({np.shape(leaf) for leaf in column})
        raise ValueError(
            f"arrays of one batch must be of one shape, but{_at(path)} found {shapes}; pad them to a maximum"
        ) from error
    try:
        tensor = torch.from_numpy(stacked)
    except TypeError as error:
        raise TypeError(_not_a_tensor(column, stacked, path)) from error
    return tensor if device is None else tensor.to(device)


def _not_a_tensor(column: Sequence[Any], stacked: "np.ndarray[Any, Any]", path: str) -> str:
    found = ", ".join(sorted({type(leaf).__name__ for leaf in column}))
    return (
        f"leaf {path or 'of the batch'} must be made of numbers to become a tensor, got {found} "
        f"({stacked.dtype}); convert it in get_transition, or drop it in the sample_compressor"
    )


def _join(path: str, part: str) -> str:
    part = part.replace("~", "~0").replace("/", "~1")
    return f"{path}/{part}" if path else part


def _at(path: str) -> str:
    return f" at {path}" if path else ""
