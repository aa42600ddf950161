"""Nests come apart into named leaves and together again; every leaf is an array of native byte order."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nests import Pose, fill, is_identical, nests
from tmrl.nest import as_array, flatten, leaf_names, unflatten


def names(nest: Any) -> tuple[str, ...]:
    return leaf_names("obs", flatten(nest)[1])


@pytest.mark.parametrize(
    ("nest", "expected"),
    [
        (1.0, ("obs",)),
        ({"b": 1, "a": (2, 3)}, ("obs/a/0", "obs/a/1", "obs/b")),
        (OrderedDict(b=1, a=[2]), ("obs/b", "obs/a/0")),
        (Pose({"x": 1}, 2), ("obs/position/x", "obs/angle")),
        ({"x/y": 1, "~": 2, 3: 4}, ("obs/x~1y", "obs/~0", "obs/3")),
        ({"a": None}, ("obs/a",)),
        ((), ()),
    ],
)
def test_leaf_is_named_by_its_path(nest: Any, expected: tuple[str, ...]) -> None:
    assert sorted(names(nest)) == sorted(expected)
    assert len(flatten(nest)[0]) == len(expected)


def test_keys_that_look_like_paths_cannot_be_mistaken_for_paths() -> None:
    assert len(set(names({"a": {"b": 1}, "a/b": 2, "a~1b": 3}))) == 3


@given(spec=nests, seed=st.integers(0, 2**32))
def test_nest_comes_together_as_it_was(spec: Any, seed: int) -> None:
    nest = fill(spec, np.random.default_rng(seed))
    leaves, treespec = flatten(nest)
    assert is_identical(nest, unflatten(treespec, leaves))
    assert len(set(leaf_names("obs", treespec))) == len(leaves)


def test_order_of_insertion_does_not_matter_to_a_dict() -> None:
    assert flatten({"b": 1, "a": 2}) == flatten({"a": 2, "b": 1})


class TestAsArray:
    def test_array_is_not_copied(self) -> None:
        array = np.zeros((3, 4))[::-1, 1:]
        assert np.shares_memory(as_array(array)[0], array)

    def test_tensor_is_not_copied(self) -> None:
        tensor = torch.zeros(3)
        as_array(tensor)[0][0] = 7.0
        assert tensor[0] == 7.0

    @pytest.mark.parametrize("dtype", ["int16", "uint64", "float16", "float32", "complex128"])
    def test_foreign_byte_order_becomes_native_with_equal_values(self, dtype: str) -> None:
        native = np.arange(6).reshape(2, 3).astype(dtype)
        foreign = native.astype(native.dtype.newbyteorder())
        array, _ = as_array(foreign)
        assert array.dtype == native.dtype
        assert array.dtype.isnative
        assert array.tobytes() == native.tobytes()

    @pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
    def test_bfloat16_comes_as_its_bits(self, shape: tuple[int, ...]) -> None:
        bits, is_bfloat16 = as_array(torch.full(shape, 1.5, dtype=torch.bfloat16))
        assert is_bfloat16
        assert bits.dtype == np.uint16
        assert bits.shape == shape
        assert (bits == 0x3FC0).all()

    def test_strided_bfloat16_keeps_its_order(self) -> None:
        tensor = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T
        bits, _ = as_array(tensor)
        widened = (bits.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(widened, [[0, 3], [1, 4], [2, 5]])

    def test_tensor_with_a_gradient_or_a_lazy_conjugate_is_read(self) -> None:
        assert as_array(torch.ones(2, requires_grad=True))[0].tolist() == [1, 1]
        assert as_array(torch.full((1,), 1 + 2j).conj())[0].tolist() == [1 - 2j]

    @pytest.mark.parametrize(
        ("value", "dtype"),
        [(1, "int64"), (1.0, "float64"), (True, "bool"), (np.float32(1), "float32"), (1j, "complex128")],
    )
    def test_number_is_an_array_of_no_dimension(self, value: Any, dtype: str) -> None:
        array, is_bfloat16 = as_array(value)
        assert (array.shape, array.dtype, is_bfloat16) == ((), np.dtype(dtype), False)
