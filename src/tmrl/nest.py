"""Nested observations and actions as flat, named leaves, by way of `optree`.

A nest is any combination of dicts, tuples, namedtuples and lists with arrays or numbers as leaves. A leaf is
named by the path that leads to it, in the manner of a JSON pointer (RFC 6901): `obs`, `obs/camera/0`.
"""

from functools import lru_cache
from typing import Any

import optree
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
