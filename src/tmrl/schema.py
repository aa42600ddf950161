"""Schema: how a sample becomes one fixed-size row, a record of a NumPy structured dtype.

A row holds the leaves of the observation and the action, `rew` as float32, the two flags, and the entries
of `info` that the memory was asked to keep; in CRC mode also the checksums that the worker took. Leaves are
ordered by falling item size and the row is padded to a multiple of the largest one, so every leaf of every
row is aligned, and a view of many rows is an ordinary strided array.

How samples are checked and packed into rows is the business of `tmrl.packing`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, cast

import numpy as np
from optree import PyTreeSpec

from tmrl.errors import HistoryError, SchemaError
from tmrl.history import History
from tmrl.history_rules import Quantized
from tmrl.nest import as_array, flatten, leaf_names, unflatten

_CHARS = "?bBhHiIlLqQefdFD"
"""Of the dtypes that mean the same on every platform, which `longdouble` does not."""

_CRC_TAIL = ("rew", "terminated", "truncated")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array of fixed shape and dtype inside every row."""

    name: str
    """Path of the leaf, as in `obs/camera/0`; the name of the row's field."""
    dtype: np.dtype[Any]
    """Dtype of its items in the row, in native byte order."""
    shape: tuple[int, ...]
    """Shape without a batch dimension; `()` for a number."""
    is_bfloat16: bool = False
    """Whether the 16 bits of each item are a bfloat16, which NumPy lacks; `dtype` is then uint16."""

    @property
    def n_bytes(self) -> int:
        """Bytes of the leaf in one row."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def dtype_name(self) -> str:
        """Name of the dtype that is handed out."""
        return "bfloat16" if self.is_bfloat16 else self.dtype.name

    def __str__(self) -> str:
        return f"{self.dtype_name} of shape {self.shape}"


@dataclass(frozen=True, slots=True)
class Nest:
    """A nest whose leaves have fixed shapes and dtypes."""

    treespec: PyTreeSpec
    leaves: tuple[Leaf, ...]

    @staticmethod
    def infer(name: str, example: Any) -> "Nest":
        """Takes the shapes and dtypes from an example.

        Raises:
            SchemaError: A leaf has no fixed-size representation; the message names it and the remedy.
        """
        values, treespec = flatten(example)
        names = leaf_names(name, treespec)
        if len(set(names)) != len(names):
            raise SchemaError(f"{name}: two leaves share one name among {names}; use only str keys in dicts")
        leaves = (_infer_leaf(name, value) for name, value in zip(names, values, strict=True))
        return Nest(treespec, tuple(leaves))

    @property
    def is_leaf(self) -> bool:
        """Whether there is no container around the one array or number."""
        return self.treespec.is_leaf()

    def pack_nest(self, leaves: Iterable[Any]) -> Any:
        """Puts values, one a leaf, into a nest of this shape."""
        return unflatten(self.treespec, list(leaves))

    def zeros(self) -> Any:
        """A nest of zeros: the action of reset rows, which no transition reads."""
        return self.pack_nest(np.zeros(leaf.shape, leaf.dtype) for leaf in self.leaves)


@dataclass(frozen=True, slots=True)
class Branch:
    """A node of a nest: which containers are allowed, and what is under each key."""

    name: str
    kind: type
    fields: tuple[str, ...] | None
    """Of a namedtuple; another one is allowed only if its entries mean the same."""
    keys: tuple[Any, ...]
    children: "tuple[Branch | Leaf, ...]"

    def admits(self, kind: type) -> bool:
        """Whether values of this type may stand here."""
        return issubclass(kind, self.kind) and (
            self.fields is None or getattr(kind, "_fields", self.fields) == self.fields
        )

    def __str__(self) -> str:
        return self.kind.__name__ + (f" of ({', '.join(self.fields)})" if self.fields else "")


def branch_of(name: str, nest: Nest) -> Branch | Leaf:
    """The root of a nest: its one leaf, or the outermost container."""
    leaves = iter(nest.leaves)

    def build(path: str, spec: PyTreeSpec) -> Branch | Leaf:
        if spec.is_leaf():
            return next(leaves)
        made_of = cast("type", spec.type)
        kind = next((kind for kind in (dict, tuple) if issubclass(made_of, kind)), made_of)
        fields = cast("tuple[str, ...] | None", getattr(made_of, "_fields", None))
        keys = spec.entries()
        parts = zip(fields or keys, spec.children(), strict=True)
        children = tuple(build(f"{path}/{part}", child) for part, child in parts)
        return Branch(path, kind, fields, tuple(keys), children)

    return build(name, nest.treespec)


_RULE = (
    "a row holds bool, integer, float and complex arrays of fixed shape: pad ragged data to a maximum, make "
    "sparse tensors dense, encode text as numbers, or keep such samples in a memory of your own (subclass "
    "tmrl.memory.TorchMemory)"
)


def _infer_leaf(name: str, value: Any) -> Leaf:
    if value is None:
        raise SchemaError(
            f"{name} is None; a row holds arrays and numbers of fixed shape: leave it out in an "
            "obs_preprocessor, or put a number in its place"
        )
    try:
        array, is_bfloat16 = as_array(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise SchemaError(
            f"{name} is a {type(value).__name__} that is no array ({error}); {_RULE}"
        ) from error
    if array.dtype.char not in _CHARS:
        raise SchemaError(f"{name} is a {type(value).__name__} of dtype {array.dtype}; {_RULE}")
    return Leaf(name, array.dtype, array.shape, is_bfloat16)


@dataclass(frozen=True, slots=True)
class Source:
    """From which field, of which rows, a leaf of the observation is cut."""

    leaf: Leaf
    """The field."""
    depth: int = 0
    """Rows up to the observation's own, as the first axis of the leaf; 0 for its own alone, without one."""
    back: int = 0
    """How many rows before the observation's own."""
    codec: Quantized | None = None
    """How its numbers are kept; None as they are."""

    def seen(self, name: str) -> Leaf:
        """The leaf that is handed out."""
        shape = (self.depth, *self.leaf.shape) if self.depth else self.leaf.shape
        dtype = np.dtype(self.codec.restored) if self.codec else self.leaf.dtype
        return Leaf(name, dtype, shape, self.leaf.is_bfloat16)


class Schema:
    """The layout of a row, and which of its fields make which part of a transition.

    Args:
        obs: The observation.
        act: The action.
        info: Entry of `info_keys` to what it holds.
        with_crc: Whether rows hold the checksums of CRC mode.
        history: How observations are rebuilt from what rows hold of them; None if they hold them whole.

    Attributes:
        sources: Where each leaf of an observation comes from.
        seen: The observation as the worker saw it, and as it is handed out.

    Raises:
        HistoryError: `obs` is not what the history keeps.
    """

    def __init__(
        self,
        obs: Nest,
        act: Nest,
        info: dict[str, Nest] | None = None,
        with_crc: bool = False,
        history: History | None = None,
    ) -> None:
        self.obs = obs
        self.act = act
        self.info = info or {}
        self.with_crc = with_crc
        self.history = history
        self.seen = obs
        self.sources = tuple(Source(leaf) for leaf in obs.leaves)
        if history is not None:
            self.seen, self.sources = _rebuilt(history, obs, act)

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Every field of the row, in the order of the row."""
        flag = np.dtype(np.bool_)
        leaves = [*self.obs.leaves, *self.act.leaves]
        leaves += [leaf for nest in self.info.values() for leaf in nest.leaves]
        leaves += [
            Leaf("rew", np.dtype(np.float32), ()),
            Leaf("terminated", flag, ()),
            Leaf("truncated", flag, ()),
        ]
        if self.with_crc:
            number = np.dtype(np.int64)
            leaves += [Leaf("crc/episode", number, ()), Leaf("crc/step", number, ())]
            leaves.append(Leaf("crc/fields", np.dtype(np.uint32), (len(self.crc_names),)))
        return tuple(sorted(leaves, key=lambda leaf: -leaf.dtype.itemsize))

    @cached_property
    def crc_names(self) -> tuple[str, ...]:
        """Names of the checksums of a transition, in the order of the field `crc/fields`."""
        obs = [leaf.name for leaf in self.seen.leaves]
        act = [leaf.name for leaf in self.act.leaves]
        return (*(f"prev_{name}" for name in obs), *act, *obs, *_CRC_TAIL)

    @cached_property
    def row_dtype(self) -> np.dtype[np.void]:
        """The structured dtype of a row; its size is a multiple of every leaf's item size."""
        align = self.leaves[0].dtype.itemsize
        return np.dtype(
            {
                "names": [leaf.name for leaf in self.leaves],
                "formats": [(leaf.dtype, leaf.shape) for leaf in self.leaves],
                "offsets": list(self.offsets.values()),
                "itemsize": -(-self.payload_bytes // align) * align,
            }
        )

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Distance of each field from the row's start, in bytes; there are no holes between fields."""
        ends = accumulate(leaf.n_bytes for leaf in self.leaves)
        return {leaf.name: end - leaf.n_bytes for leaf, end in zip(self.leaves, ends, strict=True)}

    @property
    def payload_bytes(self) -> int:
        """Bytes of a row without its padding."""
        return sum(leaf.n_bytes for leaf in self.leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((self.obs, self.act))

    def _identity(self) -> tuple[Any, ...]:
        # In order: it decides the layout.
        return self.obs, self.act, tuple(self.info.items()), self.with_crc, self.history

    def __repr__(self) -> str:
        return f"Schema({', '.join(f'{leaf.name}: {leaf}' for leaf in self.leaves)})"


def _rebuilt(history: History, obs: Nest, act: Nest) -> tuple[Nest, tuple[Source, ...]]:
    """The observation that a history makes of rows, and where its leaves come from."""
    kept: list[Source] = []
    for rule, leaf in zip(history.rules(obs.treespec), obs.leaves, strict=True):
        if rule.codec is not None and leaf.dtype.name != rule.codec.dtype:
            raise HistoryError(
                f"{leaf.name} must be {rule.codec.dtype}, as its history keeps it, got {leaf}; give the "
                "worker the same history"
            )
        kept.append(Source(leaf, rule.depth, 0, rule.codec))
    backs = reversed(range(history.n_actions))
    actions = [act.pack_nest(Source(leaf, back=back) for leaf in act.leaves) for back in backs]
    sources, treespec = flatten(history.join(obs.pack_nest(kept), actions))
    leaves = (source.seen(name) for name, source in zip(leaf_names("obs", treespec), sources, strict=True))
    return Nest(treespec, tuple(leaves)), tuple(sources)


def example_from_space(name: str, space: Any) -> Any:
    """A nest of zeros with the shapes and dtypes of a gymnasium space.

    Raises:
        SchemaError: The space has no fixed-size samples; the message says which and the remedy.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {key: example_from_space(f"{name}/{key}", part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(example_from_space(f"{name}/{i}", part) for i, part in enumerate(space.spaces))
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return np.zeros(space.shape or (), np.dtype(space.dtype))
    raise SchemaError(
        f"{name}: a row cannot hold samples of {type(space).__name__}, whose size varies; "
        "encode them as a Box of fixed shape in a wrapper of the environment"
    )


def infer_info(key: str, infos: Sequence[Any]) -> Nest | None:
    """The nest of one entry of `info`, from the first sample that has it; None if none has."""
    for info in infos:
        if isinstance(info, dict) and key in info:
            return Nest.infer(info_name(key), info[key])
    return None


def info_name(key: str) -> str:
    """The name under which an entry of `info` stands in a row."""
    return f"info/{key.replace('~', '~0').replace('/', '~1')}"
