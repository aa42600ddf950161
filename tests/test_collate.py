"""Collation keeps dtypes, nests and values, copies everything, and names the leaf that it cannot take."""

from collections import OrderedDict, defaultdict
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tmrl.collate import collate_torch


class Pose(NamedTuple):
    position: Any
    speed: Any


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "int64", "uint16", "float16", "float32", "float64", "complex64"]
)
def test_arrays_are_stacked_with_their_dtype(dtype):
    """B46: neither float32 nor float64 is a default."""
    rows = [np.full((2, 3), i % 2, dtype) for i in range(4)]
    batch = collate_torch(rows)
    assert batch.shape == (4, 2, 3)
    assert batch.dtype == torch.from_numpy(rows[0]).dtype
    np.testing.assert_array_equal(batch.numpy(), np.stack(rows))


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [
        (0.5, torch.float64),
        (np.float64(0.5), torch.float64),
        (np.float32(0.5), torch.float32),
        (True, torch.bool),
        (np.bool_(True), torch.bool),
        (3, torch.int64),
        (np.uint8(3), torch.uint8),
        (np.array(0.5, np.float32), torch.float32),
    ],
)
def test_numbers_become_one_dimension(leaf, dtype):
    batch = collate_torch([leaf, leaf])
    assert batch.shape == (2,)
    assert batch.dtype == dtype
    assert batch.tolist() == [leaf, leaf]


def test_tensors_are_stacked():
    batch = collate_torch([torch.ones(2), torch.zeros(2)])
    assert batch.tolist() == [[1, 1], [0, 0]]


def test_objects_that_give_a_tensor_are_asked_for_it():
    class Scan:
        def __torch_tensor__(self):
            return torch.ones(2, dtype=torch.int16)

    assert collate_torch([Scan(), Scan()]).dtype == torch.int16


def test_nests_keep_their_types_and_key_order():
    speed = np.ones(1, np.float32)
    sample = {
        "z": (speed, [speed, 1]),
        "pose": Pose(speed, 2.0),
        "ordered": OrderedDict(b=1, a=2),
        "default": defaultdict(list, a=speed),
        "frozen": MappingProxyType({"a": 1}),
    }
    batch = collate_torch([sample, sample, sample])
    assert list(batch) == list(sample)
    assert [type(batch[key]) for key in sample] == [type(sample[key]) for key in sample]
    assert type(batch["z"][1]) is list
    assert batch["pose"].speed.tolist() == [2.0] * 3
    assert list(batch["ordered"]) == ["b", "a"]
    assert batch["default"].default_factory is list
    assert batch["frozen"]["a"].tolist() == [1, 1, 1]
    assert sample["ordered"] == OrderedDict(b=1, a=2)


@pytest.mark.parametrize(
    "view",
    [
        np.arange(6.0)[::-1],
        np.arange(6.0).reshape(2, 3).T,
        np.arange(6.0)[:, None][::-2],
        np.broadcast_to(1.0, (3,)),
        np.arange(3, dtype=">f4"),
    ],
)
def test_any_strides_and_byte_order_will_do(view):
    for n in (1, 2):
        batch = collate_torch([view] * n)
        np.testing.assert_array_equal(batch.numpy(), np.stack([view] * n))


def test_batch_shares_no_memory_with_the_samples():
    """B39: also for a batch of one."""
    array, tensor = np.zeros(2), torch.zeros(2)
    batch = collate_torch([(array, tensor)])
    array[:] = 1
    tensor[:] = 1
    assert batch[0].tolist() == batch[1].tolist() == [[0, 0]]


def test_everything_is_put_on_the_device():
    sample = {"array": np.ones(2), "number": 1.0, "tensor": torch.ones(2)}
    batch = collate_torch([sample], device="meta")
    assert {leaf.device.type for leaf in batch.values()} == {"meta"}


@pytest.mark.parametrize(
    ("leaf", "found"), [("go", "str"), (None, "NoneType"), (object(), "object"), (b"x", "bytes")]
)
def test_leaf_that_cannot_be_a_tensor_is_named_by_its_path(leaf, found):
    sample = (np.ones(2), {"camera": [1.0, leaf]})
    with pytest.raises(
        TypeError, match=rf"leaf 1/camera/1 must be made of numbers .* got {found} .* drop it"
    ):
        collate_torch([sample, sample])


def test_leaf_that_is_sometimes_missing_is_named():
    with pytest.raises(TypeError, match=r"leaf pose/speed must be made of numbers .* got NoneType, float"):
        collate_torch([{"pose": Pose(1.0, 1.0)}, {"pose": Pose(1.0, None)}])
    with pytest.raises(TypeError, match=r"leaf 0 must be made of numbers .* got NoneType, ndarray"):
        collate_torch([(np.array(1.0),), (None,)])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"a": np.ones(2)}, {"a": np.ones(3)}, r"one shape, but at a found \[\(2,\), \(3,\)\]; pad them"),
        ({"a": torch.ones(2)}, {"a": torch.ones(3)}, "tensors of one batch must be of one shape, but at a"),
        ({"a": {"x": 1}}, {"a": {"y": 1}}, r"same keys, but at a some lack or exceed \['x'\]"),
        (({"x": 1},), (1,), "same keys, but at 0"),
        (([1, 2],), ([1],), "as many entries, but at 0 some have not 2"),
        (([1, 2],), (None,), "as many entries, but at 0"),
        ((1.0,), ([1.0],), "one shape, but at 0"),
    ],
)
def test_samples_that_differ_are_refused_with_the_place(first, second, message):
    with pytest.raises(ValueError, match=message):
        collate_torch([first, second])


def test_empty_batch_is_refused():
    with pytest.raises(ValueError, match="a batch must hold at least 1 sample, got 0; append"):
        collate_torch([])
