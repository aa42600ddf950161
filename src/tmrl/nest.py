"""Nested observations and actions as flat, named leaves, by way of `optree`.

A nest is any combination of dicts, tuples, namedtuples and lists with arrays or numbers as leaves. A leaf is
named by the path that leads to it, in the manner of a JSON pointer (RFC 6901): `obs`, `obs/camera/0`.
"""

import sys
from functools import lru_cache
from typing import Any

import numpy as np
import optree
from numpy.typing import NDArray
from optree import PyTreeSpec


def flatten(nest: Any) -> tuple[list[Any], PyTreeSpec]:
    """Splits a nest into its leaves, dicts in the order of their sorted keys, and the shape of the nest."""
    leaves, treespec = optree.tree_flatten(nest, none_is_leaf=True)
    return leaves, treespec


def unflatten(treespec: PyTreeSpec, leaves: list[Any]) -> Any:
    """Puts leaves back into a nest; dicts keep the key order of the nest that was flattened."""
    return treespec.unflatten(leaves)


@lru_cache(maxsize=1024)
def leaf_names(prefix: str, treespec: PyTreeSpec) -> tuple[str, ...]:
    """Names the leaves of a nest: `prefix`, then one `/part` for each key, field or index on the way."""
    names: list[str] = []
    for accessor in treespec.accessors():
        parts = (getattr(entry, "field", entry.entry) for entry in accessor)
        names.append("/".join([prefix, *(str(part).replace("~", "~0").replace("/", "~1") for part in parts)]))
    return tuple(names)


def as_array(value: Any) -> tuple[NDArray[Any], bool]:
    """An array, number or CPU tensor as a NumPy array of native byte order, and whether it is bfloat16.

    The array shares memory with the value where it can; a bfloat16 comes as its bits in uint16.
    """
    kind = type(value)
    if kind is np.ndarray and value.dtype.kind in "biufc" and value.dtype.isnative:
        return value, False
    if str(getattr(value, "dtype", "")) == "torch.bfloat16":
        # The value is a tensor, so torch is loaded; this module must not be the one that loads it.
        torch = sys.modules["torch"]
        return value.detach().cpu().contiguous().view(torch.uint16).numpy(), True
    array = np.asarray(value.numpy(force=True) if hasattr(value, "detach") else value)
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16), True
    return (array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))), False
