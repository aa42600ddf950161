"""A row holds every leaf aligned, in place, with the dtype and shape that it came with."""

from collections import OrderedDict, UserList
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from nests import Pose, fill, is_identical, nests
from tmrl.errors import SchemaError
from tmrl.nest import flatten
from tmrl.schema import Branch, Leaf, Nest, Schema, branch_of, example_from_space, infer_info

W1_OBS, W1_ACT = np.zeros(17, np.float32), np.zeros(6, np.float32)


def leaves_of(nest: Any) -> list[Any]:
    return flatten(nest)[0]


def schema_of(obs: Any, act: Any = 0, info: dict[str, Any] | None = None, with_crc: bool = False) -> Schema:
    nests_of_info = {key: Nest.infer(f"info/{key}", value) for key, value in (info or {}).items()}
    return Schema(Nest.infer("obs", obs), Nest.infer("act", act), nests_of_info, with_crc)


@given(obs=nests, act=nests, with_crc=st.booleans(), seed=st.integers(0, 2**32))
def test_every_leaf_of_every_row_is_aligned_and_none_overlap(
    obs: Any, act: Any, with_crc: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    schema = schema_of(fill(obs, rng), fill(act, rng), {"x": 1.5}, with_crc)
    dtype = schema.row_dtype
    end = 0
    for leaf in schema.leaves:
        item = leaf.dtype.itemsize
        assert schema.offsets[leaf.name] == end
        assert end % item == 0
        assert dtype.itemsize % item == 0
        assert dtype.fields is not None
        assert dtype.fields[leaf.name][0] == np.dtype((leaf.dtype, leaf.shape))
        end += leaf.n_bytes
    assert end == schema.payload_bytes
    assert 0 <= dtype.itemsize - end < schema.leaves[0].dtype.itemsize
    rows = np.zeros(3, dtype)
    assert all(rows[leaf.name].flags.aligned for leaf in schema.leaves)


@given(obs=nests, act=nests, seed=st.integers(0, 2**32))
def test_leaves_have_the_dtypes_and_shapes_of_the_example(obs: Any, act: Any, seed: int) -> None:
    """B46: no dtype is a default."""
    example = fill(obs, np.random.default_rng(seed))
    nest = Nest.infer("obs", example)
    zeros = nest.zeros()
    rebuilt = nest.pack_nest(np.asarray(leaf) for leaf in leaves_of(example))
    assert is_identical(example, rebuilt)
    assert [(z.dtype, z.shape) for z in leaves_of(zeros)] == [
        (leaf.dtype, leaf.shape) for leaf in nest.leaves
    ]
    assert not any(z.any() for z in leaves_of(zeros))


def test_row_of_w1_is_98_bytes_and_its_padding() -> None:
    schema = schema_of(W1_OBS, W1_ACT)
    assert schema.payload_bytes == 17 * 4 + 6 * 4 + 4 + 2 == 98
    assert schema.row_dtype.itemsize == 100
    assert schema.offsets == {"obs": 0, "act": 68, "rew": 92, "terminated": 96, "truncated": 97}


def test_crc_fields_are_in_the_row_and_named_in_order() -> None:
    schema = schema_of({"a": 1.0, "b": W1_OBS}, W1_ACT, with_crc=True)
    assert schema.crc_names == (
        *("prev_obs/a", "prev_obs/b", "act", "obs/a", "obs/b"),
        *("rew", "terminated", "truncated"),
    )
    assert schema.row_dtype["crc/fields"].shape == (8,)
    assert {"crc/episode", "crc/step"} < set(schema.row_dtype.names or ())


def test_foreign_byte_order_becomes_native() -> None:
    assert Nest.infer("obs", np.zeros(2, ">f4")).leaves[0] == Leaf("obs", np.dtype("=f4"), (2,))


def test_bfloat16_is_stored_as_its_bits_and_named() -> None:
    leaf = Nest.infer("obs", torch.zeros(3, dtype=torch.bfloat16)).leaves[0]
    assert leaf == Leaf("obs", np.dtype(np.uint16), (3,), is_bfloat16=True)
    assert str(leaf) == "bfloat16 of shape (3,)"
    assert leaf.n_bytes == 6


class TestEquality:
    def test_equal_samples_make_equal_schemas(self) -> None:
        assert schema_of({"a": 1, "b": 2.0}) == schema_of({"b": 0.0, "a": 5})
        assert len({schema_of(1), schema_of(2)}) == 1

    @pytest.mark.parametrize(
        "other",
        [
            schema_of(W1_ACT, W1_ACT),
            schema_of(W1_OBS.astype(np.float64), W1_ACT),
            schema_of((W1_OBS,), W1_ACT),
            schema_of(W1_OBS, W1_ACT, with_crc=True),
            schema_of(W1_OBS, W1_ACT, {"a": 1}),
            "schema",
        ],
    )
    def test_any_difference_makes_schemas_differ(self, other: Any) -> None:
        assert schema_of(W1_OBS, W1_ACT) != other

    def test_equal_schemas_have_equal_rows(self) -> None:
        one, two = schema_of(0, info={"a": 1, "b": 2}), schema_of(0, info={"b": 2, "a": 1})
        assert one.row_dtype != two.row_dtype
        assert one != two

    def test_uint16_is_no_bfloat16(self) -> None:
        assert schema_of(np.zeros(3, np.uint16)) != schema_of(torch.zeros(3, dtype=torch.bfloat16))


def test_schema_shows_its_leaves() -> None:
    assert repr(schema_of(W1_OBS, W1_ACT)) == (
        "Schema(obs: float32 of shape (17,), act: float32 of shape (6,), rew: float32 of shape (), "
        "terminated: bool of shape (), truncated: bool of shape ())"
    )


class TestRefusedLeaves:
    def test_none_is_refused_by_name(self) -> None:
        with pytest.raises(SchemaError, match=r"obs/a is None; .* leave it out in an obs_preprocessor"):
            Nest.infer("obs", {"a": None})

    @pytest.mark.parametrize(
        ("leaf", "found"),
        [
            ("left", "a str of dtype <U4"),
            (b"left", "a bytes of dtype "),
            (object(), "a object of dtype object"),
            (np.array([[1], None], object), "a ndarray of dtype object"),
            (np.zeros(2, np.longdouble), f"a ndarray of dtype {np.dtype(np.longdouble)}"),
            (np.zeros(2, np.clongdouble), f"a ndarray of dtype {np.dtype(np.clongdouble)}"),
            (np.zeros(2, "M8[s]"), r"a ndarray of dtype datetime64\[s\]"),
            (np.zeros(2, [("x", "f4")]), "a ndarray of dtype "),
            (2**70, "a int of dtype object"),
            (UserList([[1], [1, 2]]), r"a UserList that is no array \(setting an array element"),
            (torch.eye(2).to_sparse(), r"a Tensor that is no array \(can't convert Sparse"),
            (torch.zeros(2, dtype=torch.float8_e4m3fn), r"a Tensor that is no array \("),
        ],
    )
    def test_leaf_without_fixed_size_is_refused_with_a_remedy(self, leaf: Any, found: str) -> None:
        with pytest.raises(
            SchemaError, match=rf"obs/0 is {found}.*; a row holds .* pad ragged data to a max"
        ):
            Nest.infer("obs", (leaf,))

    def test_keys_that_read_alike_are_refused(self) -> None:
        with pytest.raises(
            SchemaError, match=r"obs: two leaves share one name .* use only str keys in dicts"
        ):
            Nest.infer("obs", {1: 0.0, "1": 1.0})


class TestSpaces:
    @pytest.mark.parametrize(
        ("space", "leaves"),
        [
            (spaces.Box(0, 255, (2, 3), np.uint8), [("act", "uint8", (2, 3))]),
            (spaces.Box(-1, 1, (), np.float64), [("act", "float64", ())]),
            (spaces.Discrete(4), [("act", "int64", ())]),
            (spaces.MultiDiscrete([2, 3]), [("act", "int64", (2,))]),
            (spaces.MultiBinary(5), [("act", "int8", (5,))]),
            (spaces.MultiBinary((2, 2)), [("act", "int8", (2, 2))]),
            (
                spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 1, (3,))}),
                [("act/a", "float32", (3,)), ("act/b", "int64", ())],
            ),
            (
                spaces.Tuple((spaces.Discrete(2), spaces.Dict({"x": spaces.MultiBinary(1)}))),
                [("act/0", "int64", ()), ("act/1/x", "int8", (1,))],
            ),
        ],
    )
    def test_layout_of_a_space_is_that_of_its_samples(self, space: Any, leaves: list[Any]) -> None:
        nest = Nest.infer("act", example_from_space("act", space))
        assert [(leaf.name, leaf.dtype_name, leaf.shape) for leaf in nest.leaves] == leaves
        space.seed(0)
        assert nest.leaves == Nest.infer("act", space.sample()).leaves

    @pytest.mark.parametrize(
        "space",
        [
            spaces.Text(5),
            spaces.Sequence(spaces.Discrete(2)),
            spaces.Graph(spaces.Box(0, 1, (2,)), None),
        ],
    )
    def test_space_of_varying_size_is_refused_by_name(self, space: Any) -> None:
        message = rf"obs/a/0: a row cannot hold samples of {type(space).__name__}, whose size varies; encode"
        with pytest.raises(SchemaError, match=message):
            example_from_space("obs", spaces.Dict({"a": spaces.Tuple((space,))}))


class TestInfo:
    def test_first_sample_that_has_the_entry_decides(self) -> None:
        nest = infer_info("a/b", [{}, None, {"a/b": np.float32(1)}, {"a/b": 2}])
        assert nest is not None
        assert nest.leaves == (Leaf("info/a~1b", np.dtype(np.float32), ()),)

    def test_entry_that_nobody_has_is_none(self) -> None:
        assert infer_info("a", [{}, {"b": 1}]) is None


class TestBranches:
    def test_leaf_alone_is_its_own_root(self) -> None:
        assert branch_of("obs", Nest.infer("obs", 1.0)) == Leaf("obs", np.dtype(np.float64), ())

    def test_containers_are_named_by_path(self) -> None:
        root = branch_of("obs", Nest.infer("obs", {"p": Pose([1.0], 2.0)}))
        assert isinstance(root, Branch)
        pose = root.children[0]
        assert isinstance(pose, Branch)
        assert [root.name, pose.name] == ["obs", "obs/p"]
        assert [child.name for child in pose.children] == ["obs/p/position", "obs/p/angle"]
        assert str(pose) == "tuple of (position, angle)"

    def test_kinds_of_dict_are_alike(self) -> None:
        root = branch_of("obs", Nest.infer("obs", OrderedDict(a=1)))
        assert isinstance(root, Branch)
        assert root.admits(dict)
        assert not root.admits(list)
