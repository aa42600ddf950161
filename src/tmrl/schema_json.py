"""Schemas as JSON, so that rows on disk say what they mean.

A nest is written as it is built, a dict in the order of its keys: `{"dict": [[key, nest], ...]}`,
`{"tuple": [...]}`, `{"list": [...]}`, `{"namedtuple": "Pose", "fields": [[name, nest], ...]}`; a leaf as
`{"dtype": "uint8", "shape": [84, 84]}`. Reading makes nothing but these containers; a namedtuple is made anew
from its name and its fields.
"""

import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import numpy as np
from optree import PyTreeSpec

from tmrl.errors import DatasetError, HistoryError
from tmrl.history import History
from tmrl.nest import flatten, leaf_names
from tmrl.schema import Leaf, Nest, Schema, info_name

MAX_DEPTH = 32
MAX_LEAF_BYTES = 1 << 31
MAX_ROW_BYTES = 1 << 30
DTYPES = frozenset(
    (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    )
)


def schema_to_json(schema: Schema) -> dict[str, Any]:
    """A schema as what `json.dumps` takes."""
    return {
        "obs": nest_to_json(schema.obs),
        "act": nest_to_json(schema.act),
        "info": [[key, nest_to_json(nest)] for key, nest in schema.info.items()],
        "with_crc": schema.with_crc,
        **({} if schema.history is None else {"history": schema.history.to_json()}),
    }


def schema_from_json(document: Any) -> Schema:
    """The schema that `schema_to_json` wrote.

    Raises:
        DatasetError: It is no such document; the message says what is wrong.
    """
    try:
        info = {key: nest_from_json(info_name(key), nest) for key, nest in document["info"]}
        obs, act = nest_from_json("obs", document["obs"]), nest_from_json("act", document["act"])
        history = History.from_json(document["history"]) if "history" in document else None
        schema = Schema(obs, act, info, bool(document["with_crc"]), history)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DatasetError | HistoryError):
            raise
        raise DatasetError(
            f"a schema must hold obs, act, info and with_crc, but reading it: {error!r}"
        ) from error
    if schema.payload_bytes > MAX_ROW_BYTES:
        raise DatasetError(f"a row must be at most {MAX_ROW_BYTES:,} bytes, got {schema.payload_bytes:,}")
    return schema


def nest_to_json(nest: Nest) -> dict[str, Any]:
    """A nest as what `json.dumps` takes."""
    leaves = iter(nest.leaves)

    def write(spec: PyTreeSpec) -> dict[str, Any]:
        if spec.is_leaf():
            leaf = next(leaves)
            return {"dtype": leaf.dtype_name, "shape": list(leaf.shape)}
        kind = cast("type", spec.type)
        # The leaves of a dict come in the order of its sorted keys, whatever its own order.
        parts = {entry: write(child) for entry, child in zip(spec.entries(), spec.children(), strict=True)}
        if issubclass(kind, dict):
            own_order = spec.unflatten([None] * spec.num_leaves)
            name = "ordered_dict" if issubclass(kind, OrderedDict) else "dict"
            return {name: [[key, parts[key]] for key in own_order]}
        if hasattr(kind, "_fields"):
            fields = zip(cast("Any", kind)._fields, parts.values(), strict=True)
            return {"namedtuple": kind.__name__, "fields": [list(field) for field in fields]}
        return {"tuple" if issubclass(kind, tuple) else "list": list(parts.values())}

    return write(nest.treespec)


def nest_from_json(name: str, document: Any) -> Nest:
    """The nest that `nest_to_json` wrote, its leaves named from `name` on.

    Raises:
        DatasetError: It is no such document, or absurdly deep or large.
    """
    slots, treespec = flatten(_read(document, 0))
    leaves = (slot.leaf(leaf) for leaf, slot in zip(leaf_names(name, treespec), slots, strict=True))
    return Nest(treespec, tuple(leaves))


class _Slot:
    """Stands for a leaf in an example of the nest."""

    def __init__(self, dtype: str, shape: list[int]) -> None:
        is_shape = all(type(length) is int and length >= 0 for length in shape)
        if dtype not in DTYPES or not is_shape or math.prod(shape) > MAX_LEAF_BYTES:
            raise DatasetError(
                f"a leaf must have a known dtype and a sensible shape, got {dtype!r} and {shape!r}"
            )
        self._dtype = dtype
        self._shape = tuple(shape)

    def leaf(self, name: str) -> Leaf:
        is_bfloat16 = self._dtype == "bfloat16"
        return Leaf(name, np.dtype("uint16" if is_bfloat16 else self._dtype), self._shape, is_bfloat16)


def _read(document: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise DatasetError(f"a nest must be at most {MAX_DEPTH} deep")
    if not isinstance(document, dict):
        raise DatasetError(f"a nest must be a JSON object, got {document!r}")
    if "dtype" in document:
        return _Slot(document["dtype"], document["shape"])
    if "namedtuple" in document:
        names = tuple(name for name, _ in document["fields"])
        return namedtuple_class(document["namedtuple"], names)(
            *(_read(part, depth + 1) for _, part in document["fields"])
        )
    for kind, make in _MAPPINGS.items():
        if kind in document:
            return make((key, _read(part, depth + 1)) for key, part in document[kind])
    for kind, make in _SEQUENCES.items():
        if kind in document:
            return make(_read(part, depth + 1) for part in document[kind])
    raise DatasetError(
        f"a nest must be one of dict, tuple, list, namedtuple or a leaf, got {sorted(document)}"
    )


_MAPPINGS: dict[str, Callable[[Any], Any]] = {"dict": dict, "ordered_dict": OrderedDict}
_SEQUENCES: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "list": list}


@lru_cache
def namedtuple_class(name: str, fields: tuple[str, ...]) -> Any:
    """A class of namedtuples, one for each name and fields, so that two nests that were read are alike."""
    # Known only at run time; it checks that these are identifiers.
    return namedtuple(name, fields)  # noqa: PYI024  # pyright: ignore[reportUntypedNamedTuple]
