"""Random nests of arrays and numbers, and samples made of them, for property tests."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import optree
from hypothesis import strategies as st


class Pose(NamedTuple):
    position: Any
    angle: Any


DTYPES = "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64 complex64 complex128"


@dataclass(frozen=True)
class LeafSpec:
    """One leaf: `kind` is an array's dtype, or `int`, `float` or `bool` for python numbers."""

    kind: str
    shape: tuple[int, ...]

    def value(self, rng: np.random.Generator, is_finite: bool) -> Any:
        """A leaf of arbitrary bits, as far as finiteness allows."""
        if self.kind in {"int", "float", "bool"}:
            return {"int": int, "float": float, "bool": bool}[self.kind](rng.integers(-(2**40), 2**40))
        dtype = np.dtype(self.kind)
        n = int(np.prod(self.shape, dtype=int))
        if dtype == np.bool_ or is_finite:
            return rng.integers(0, 2, self.shape).astype(dtype)
        return np.frombuffer(rng.bytes(n * dtype.itemsize), dtype).reshape(self.shape).copy()


arrays = st.builds(
    LeafSpec, st.sampled_from(DTYPES.split()), st.lists(st.integers(0, 3), max_size=2).map(tuple)
)
leaves = arrays | st.builds(LeafSpec, st.sampled_from(["int", "float", "bool"]), st.just(()))
KEYS = st.sampled_from(["a", "b", "speed", "x/y", "~"])


def _nest_of(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.dictionaries(KEYS, parts, min_size=1, max_size=3)
        | st.dictionaries(KEYS, parts, min_size=1, max_size=3).map(OrderedDict)
        | st.lists(parts, min_size=1, max_size=3)
        | st.lists(parts, min_size=1, max_size=3).map(tuple)
        | st.builds(Pose, parts, parts)
    )


nests = st.recursive(leaves, _nest_of, max_leaves=5)


def fill(nest: Any, rng: np.random.Generator, is_finite: bool = False) -> Any:
    """A nest of values of a nest of specs."""
    return optree.tree_map(lambda spec: spec.value(rng, is_finite), nest)


@dataclass
class SampleMaker:
    """Makes the six values of samples, no two of which are alike."""

    obs: Any
    act: Any
    seed: int
    made: int = 0

    def __call__(self, is_reset: bool, terminated: bool = False, truncated: bool = False) -> tuple[Any, ...]:
        self.made += 1
        rng = np.random.default_rng((self.seed, self.made))
        act = None if is_reset else fill(self.act, rng, is_finite=True)
        return act, fill(self.obs, rng), float(self.made), terminated, truncated, {"n": self.made}


def makers() -> st.SearchStrategy[SampleMaker]:
    return st.builds(SampleMaker, nests, nests, st.integers(0, 2**32))


def is_identical(expected: Any, found: Any, as_array: Callable[[Any], Any] = np.asarray) -> bool:
    """Whether two nests agree in shape, dtype and every bit."""
    expected_leaves, expected_spec = optree.tree_flatten(expected)
    found_leaves, found_spec = optree.tree_flatten(found)
    if expected_spec != found_spec:
        return False
    pairs = [(as_array(a), as_array(b)) for a, b in zip(expected_leaves, found_leaves, strict=True)]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)
