"""Packing: every bit in comes out, everything else is refused by name, and the two paths agree."""

import copy
from collections import OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from makers import plain_episode, stamped, with_crc
from nests import DTYPES, Pose, fill, is_identical, nests
from tmrl.errors import BadSampleError, IntegrityError
from tmrl.nest import as_array, flatten
from tmrl.packing import Packer, _ScalarPath, is_reset, worker_of
from tmrl.schema import Nest, Schema
from tmrl.transition import Sample, Stamp

ACT = np.array([0.25, -0.5], np.float32)
seeds = st.integers(0, 2**32)


def packer_of(obs: Any, act: Any = ACT, finite: Any = ("rew", "act"), **info: Any) -> Packer:
    nests_of_info = {key: Nest.infer(f"info/{key}", value) for key, value in info.items()}
    return Packer(Schema(Nest.infer("obs", obs), Nest.infer("act", act), nests_of_info), finite)


def step(obs: Any, act: Any = ACT, rew: Any = 0.5, **changes: Any) -> tuple[Any, ...]:
    parts = {"terminated": False, "truncated": False, "info": {}} | changes
    return act, obs, rew, parts["terminated"], parts["truncated"], parts["info"]


def by_robot(sample: Any, episode_step: int = 1) -> Sample:
    return Sample(sample, Stamp("robot-7", 0, 5, 0, episode_step))


def bits(value: Any) -> bytes:
    return as_array(value)[0].tobytes()


def stored(rows: Any, nest: Nest, index: int) -> Any:
    return nest.pack_nest(rows[leaf.name][index] for leaf in nest.leaves)


def freeze(nest: Any) -> None:
    for leaf in flatten(nest)[0]:
        if isinstance(leaf, np.ndarray):
            leaf.setflags(write=False)


class TestExactness:
    @pytest.mark.parametrize("n", [1, 2, 5])
    @pytest.mark.parametrize("dtype", DTYPES.split())
    @pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
    def test_every_bit_of_every_dtype_is_kept(self, dtype: str, shape: tuple[int, ...], n: int) -> None:
        """B46: no dtype is a default; the bits are random, so NaNs of every payload are among them."""
        rng = np.random.default_rng(0)
        size = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
        if dtype == "bool":
            columns = [rng.integers(0, 2, shape).astype(bool) for _ in range(n)]
        else:
            columns = [np.frombuffer(rng.bytes(size), dtype).reshape(shape).copy() for _ in range(n)]
        columns = [np.asarray(value) for value in columns]
        rows = packer_of(columns[0]).pack([step(value) for value in columns])
        assert rows["obs"].dtype == dtype
        assert rows["obs"].shape == (n, *shape)
        assert [row.tobytes() for row in rows["obs"]] == [value.tobytes() for value in columns]

    @pytest.mark.parametrize("n", [1, 3])
    @pytest.mark.parametrize(
        ("dtype", "pattern"),
        [
            *(("uint32", number) for number in (0x7FA00001, 0xFFC12345, 0x80000000, 0x7F800000, 0x00000001)),
            *(("uint64", number) for number in (0x7FF0000000000001, 0xFFF8000000000007, 0x8000000000000000)),
            *(("uint16", number) for number in (0x7C01, 0xFE03, 0x8000, 0xFC00)),
        ],
    )
    def test_nan_payloads_infinities_and_minus_zero_are_kept(self, dtype: str, pattern: int, n: int) -> None:
        for value in (np.array([pattern], dtype), np.array(pattern, dtype)):
            obs = value.view(dtype.replace("uint", "float"))
            assert packer_of(obs).pack([step(obs)] * n)["obs"].tobytes() == value.tobytes() * n

    @pytest.mark.parametrize("n", [1, 3])
    @pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
    def test_bfloat16_tensors_are_kept_as_their_bits(self, shape: tuple[int, ...], n: int) -> None:
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(shape, generator=generator).to(torch.bfloat16) for _ in range(n)]
        rows = packer_of(values[0]).pack([step(value) for value in values])
        back = torch.from_numpy(rows["obs"].copy()).view(torch.bfloat16)
        assert torch.equal(back, torch.stack(values))

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize(
        "value",
        [
            np.arange(12.0).reshape(4, 3)[::2],
            np.arange(12.0).reshape(4, 3)[::-1, ::-1],
            np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            np.broadcast_to(np.array([1.0, 2.0]), (3, 2)),
            np.frombuffer(np.arange(3.0).tobytes()),
            np.arange(6, dtype=">f4"),
            np.arange(6, dtype=">u2")[::-1],
            np.array(2.5),
            np.arange(6.0).view(np.complex128),
            torch.arange(6.0).reshape(2, 3).T,
            torch.ones(3, requires_grad=True),
        ],
        ids=lambda value: f"{type(value).__name__}-{value.dtype}-{tuple(value.shape)}",
    )
    def test_any_layout_in_memory_gives_the_same_numbers(self, value: Any, n: int) -> None:
        rows = packer_of(value).pack([step(value)] * n)
        for row in rows["obs"]:
            np.testing.assert_array_equal(row, as_array(value)[0])

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize(
        "value", [3, -(2**63), 0.1, True, 1 - 2j, np.float32(0.1), np.uint8(255), np.bool_(1)]
    )
    def test_numbers_are_arrays_of_no_dimension(self, value: Any, n: int) -> None:
        rows = packer_of(value).pack([step(value)] * n)
        assert rows["obs"].dtype == np.asarray(value).dtype
        assert rows["obs"].tolist() == [value] * n

    def test_column_of_mixed_types_is_taken_if_all_mean_the_same(self) -> None:
        values = [0.5, np.float64(1.5), np.array(2.5), torch.tensor(3.5, dtype=torch.float64)]
        rows = packer_of(0.0).pack([step(value) for value in values])
        assert rows["obs"].tolist() == [0.5, 1.5, 2.5, 3.5]

    def test_column_of_mixed_layouts_is_taken(self) -> None:
        base = np.arange(6, dtype=np.float32)
        values = [base[:3], base[::2], base[::-2], base[:3].astype(">f4"), torch.arange(3.0), [0.0, 1.0, 2.0]]
        expected = [[0, 1, 2], [0, 2, 4], [5, 3, 1], [0, 1, 2], [0, 1, 2]]
        assert packer_of(base[:3]).pack([step(value) for value in values[:5]])["obs"].tolist() == expected
        with pytest.raises(BadSampleError, match=r"sample 5 of 6: obs: expected float32 .* found float64"):
            packer_of(base[:3]).pack([step(value) for value in values])

    @given(obs=nests, act=nests, seed=seeds, n=st.integers(1, 4))
    def test_random_nests_are_kept_bit_by_bit(self, obs: Any, act: Any, seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        samples = [step(fill(obs, rng), fill(act, rng, is_finite=True), float(i)) for i in range(n)]
        packer = packer_of(samples[0][1], samples[0][0])
        rows = packer.pack(samples)
        for index, (action, observation, rew, *_) in enumerate(samples):
            assert is_identical(observation, stored(rows, packer.schema.obs, index))
            assert is_identical(action, stored(rows, packer.schema.act, index))
            assert rows["rew"][index] == rew

    @given(obs=nests, act=nests, seed=seeds)
    def test_inputs_are_not_changed_and_rows_do_not_alias_them(self, obs: Any, act: Any, seed: int) -> None:
        """B38, B39."""
        rng = np.random.default_rng(seed)
        for n in (1, 2):
            samples = [step(fill(obs, rng), fill(act, rng, is_finite=True)) for _ in range(n)]
            kept = copy.deepcopy(samples)
            freeze([sample[:2] for sample in samples])
            packer = packer_of(samples[0][1], samples[0][0])
            rows = packer.pack(samples)
            assert is_identical(kept, samples)
            arrays = [leaf for leaf in flatten(samples)[0] if isinstance(leaf, np.ndarray)]
            assert not any(np.shares_memory(rows, array) for array in arrays)
            rows["rew"] = 7.0
            assert is_identical(kept, samples)

    def test_array_that_changes_later_does_not_change_the_row(self) -> None:
        """B39: environments write each observation into the same array."""
        obs = np.zeros(3)
        for n in (1, 2):
            rows = packer_of(obs).pack([step(obs)] * n)
            obs[:] = 5.0
            assert not rows["obs"].any()
            obs[:] = 0.0

    def test_rows_may_be_written_to_by_their_owner(self) -> None:
        assert all(packer_of(0.0).pack([step(0.0)] * n).flags.writeable for n in (1, 2))


class TestScalarPath:
    @given(
        obs=nests,
        act=nests,
        seed=seeds,
        rew=st.floats(width=64) | st.floats(width=32).map(np.float32) | st.integers(-(2**30), 2**30),
        flags=st.tuples(st.booleans(), st.booleans().map(np.bool_)),
        is_reset_sample=st.booleans(),
        finite=st.sampled_from([(), ("rew",), ("obs",), ("rew", "act", "obs")]),
    )
    def test_single_sample_gives_the_row_that_the_columns_give(
        self, obs: Any, act: Any, seed: int, rew: Any, flags: Any, is_reset_sample: bool, finite: Any
    ) -> None:
        """B46, over random nests and dtypes: the same bits, or the same refusal."""
        rng = np.random.default_rng(seed)
        action = fill(act, rng)
        sample = (None if is_reset_sample else action, fill(obs, rng), rew, *flags, {})
        packer = packer_of(sample[1], action, finite)
        single, columns = outcome(packer, [sample]), outcome(packer, [sample, sample])
        if isinstance(columns, str):
            assert isinstance(single, str)
            assert single.split(", found")[0] == columns.split(", found")[0].replace("of 2", "of 1")
        else:
            assert columns == single * 2

    @pytest.mark.parametrize(
        ("sample", "is_taken"),
        [
            (step(np.zeros(3)), True),
            (step(np.zeros(6)[::2], ACT[::-1], np.float64(1)), True),
            (step(np.zeros(3), rew=np.float32(1), terminated=np.True_), True),
            (step(np.zeros(3), None), False),
            (step(np.zeros(3), rew=1), False),
            (step(np.zeros(3), rew=float("nan")), False),
            (step(np.zeros(3), rew=1e39), False),
            (step(np.zeros(3), ACT * np.float32("nan")), False),
            (step([0.0, 0.0, 0.0]), False),
            (step(np.zeros(3))[:5], False),
            (None, False),
        ],
    )
    def test_ordinary_samples_take_the_short_way_and_no_others(self, sample: Any, is_taken: bool) -> None:
        packer = packer_of(np.zeros(3))
        path = _ScalarPath(packer.schema, frozenset(("rew", "act")))
        assert (path.pack(sample) is not None) == is_taken

    def test_kept_info_and_checksums_take_the_long_way(self) -> None:
        packer = packer_of(np.zeros(3), speed=1.0)
        rows = packer.pack([step(np.zeros(3), info={"speed": 2.5})])
        assert rows["info/speed"].tolist() == [2.5]


def outcome(packer: Packer, samples: list[Any]) -> bytes | str:
    try:
        return packer.pack(samples).tobytes()
    except BadSampleError as error:
        return str(error)


class TestRewardsAndFlags:
    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize(
        "rew",
        [
            0.1,
            3,
            True,
            -(2**70),
            np.float16(0.1),
            np.float64(0.1),
            np.int8(-3),
            np.array(0.1),
            torch.tensor(0.5),
        ],
    )
    def test_reward_becomes_float32(self, rew: Any, n: int) -> None:
        assert packer_of(0.0).pack([step(0.0, rew=rew)] * n)["rew"].tolist() == [np.float32(float(rew))] * n

    def test_rewards_of_mixed_types_become_float32(self) -> None:
        rews = [1, 0.5, np.float32(2), torch.tensor(3, dtype=torch.bfloat16), np.array(4), 2**70]
        rows = packer_of(0.0).pack([step(0.0, rew=rew) for rew in rews])
        assert rows["rew"].tolist() == [1.0, 0.5, 2.0, 3.0, 4.0, 2.0**70]

    def test_bfloat16_reward_is_its_value_not_its_bits(self) -> None:
        rew = torch.tensor(-1.5, dtype=torch.bfloat16)
        assert packer_of(0.0).pack([step(0.0, rew=rew)])["rew"].tolist() == [-1.5]

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize(
        ("rew", "found"),
        [
            (None, "NoneType None"),
            ("0.5", "str '0.5'"),
            (np.array([0.5]), r"ndarray array\(\[0.5\]\)"),
            ([0.5], r"list \[0.5\]"),
            (1 + 2j, r"complex \(1\+2j\)"),
            (np.complex64(1), "complex64 "),
            (np.timedelta64(1, "s"), "timedelta64 "),
            (torch.eye(2).to_sparse(), "Tensor "),
        ],
    )
    def test_reward_that_is_no_number_is_refused(self, rew: Any, found: str, n: int) -> None:
        with pytest.raises(BadSampleError, match=rf"sample 0 of {n}: rew: expected a number, found {found}"):
            packer_of(0.0).pack([step(0.0, rew=rew)] * n)

    @pytest.mark.parametrize(
        "rew", [float("nan"), float("inf"), -float("inf"), 1e39, np.float32("nan"), 10**400]
    )
    def test_reward_that_is_not_finite_is_refused(self, rew: Any) -> None:
        for samples in ([step(0.0, rew=rew)], [step(0.0), step(0.0, rew=rew)]):
            with pytest.raises(BadSampleError, match=r"rew: expected finite numbers \(float32\), found "):
                packer_of(0.0).pack(samples)

    def test_reward_need_not_be_finite_if_nobody_asks(self) -> None:
        rows = packer_of(0.0, finite=()).pack([step(0.0, rew=float("inf")), step(0.0, rew=float("nan"))])
        assert rows["rew"][0] == np.inf
        assert np.isnan(rows["rew"][1])

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize(
        "flag", [True, np.True_, 1, 1.0, np.array(True), torch.tensor(True), np.float32(1)]
    )
    def test_anything_that_is_true_or_false_is_a_flag(self, flag: Any, n: int) -> None:
        rows = packer_of(0.0).pack([step(0.0, terminated=flag, truncated=False)] * n)
        assert rows["terminated"].tolist() == [True] * n
        assert rows["truncated"].tolist() == [False] * n

    @pytest.mark.parametrize("name", ["terminated", "truncated"])
    @pytest.mark.parametrize("flag", [None, "no", 2, 0.5, float("nan"), np.array([True]), [], 1j])
    def test_other_flags_are_refused(self, flag: Any, name: str) -> None:
        for n in (1, 2):
            with pytest.raises(BadSampleError, match=rf"of {n}: {name}: expected True or False, found "):
                packer_of(0.0).pack([step(0.0, **{name: flag})] * n)


class Swapped(NamedTuple):
    angle: Any
    position: Any


class TestRefusal:
    @pytest.mark.parametrize("n_before", [0, 2])
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (np.zeros(4, np.float32), r"expected float32 of shape \(3,\) .*, found float32 of shape \(4,\)"),
            (np.zeros((1, 3), np.float32), r"found float32 of shape \(1, 3\)"),
            (np.zeros(3), r"expected float32 .*\(no cast is made unasked\), found float64 of shape \(3,\)"),
            (np.zeros(3, np.int32), "found int32 of shape"),
            (np.float32(0), r"found float32 of shape \(\)"),
            (0.0, r"found float64 of shape \(\)"),
            (None, r"expected float32 of shape \(3,\), found NoneType None"),
            ({"x": 1}, r"expected float32 of shape \(3,\), found dict \{'x': 1\}"),
            ("abc", "found <?str"),
            ([[1.0], [1.0, 2.0]], r"expected float32 of shape \(3,\), found list \[\[1.0\], \[1.0, 2.0\]\]"),
            (torch.zeros(3, dtype=torch.bfloat16), r"found bfloat16 of shape \(3,\)"),
            (torch.zeros(3).to_sparse(), "found Tensor tensor"),
        ],
    )
    def test_wrong_leaf_is_refused_with_expected_and_found(
        self, bad: Any, message: str, n_before: int
    ) -> None:
        good = np.zeros(3, np.float32)
        samples = [by_robot(step({"x": good}))] * n_before + [by_robot(step({"x": bad}))]
        index, n = n_before, n_before + 1
        message = (
            rf"^worker 'robot-7', sample {index} of {n}: obs/x: .*{message}.*; "
            rf"all {n} samples were refused and the memory is as it was$"
        )
        with pytest.raises(BadSampleError, match=message):
            packer_of({"x": good}).pack(samples)

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize(
        ("good", "bad", "message"),
        [
            ({"a": 1, "b": 2}, {"a": 1}, "obs: expected the keys 'a', 'b', found 'b' missing;"),
            ({"a": 1}, {"a": 1, "c": 2}, "obs: expected the keys 'a', found 'c' extra;"),
            ({"a": 1, "b": 2}, {"a": 1, "c": 2}, "found 'b' missing and 'c' extra;"),
            ({"a": 1}, (1,), r"obs: expected a dict, found tuple \(1,\)"),
            ((1, 2), [1, 2], r"obs: expected a tuple, found list \[1, 2\]"),
            ([1, 2], (1, 2), "obs: expected a list, found tuple"),
            ((1, 2), (1, 2, 3), "obs: expected 2 entries, found 3;"),
            ([1, 2], [1], "obs: expected 2 entries, found 1;"),
            ((1, 2), 5, "obs: expected a tuple, found int 5"),
            ((1, 2), None, "obs: expected a tuple, found NoneType None"),
            (
                {"p": (1, {"q": 2})},
                {"p": (1, {"r": 2})},
                "obs/p/1: expected the keys 'q', found 'r' extra|'q' m",
            ),
            ({"p": Pose([1], 2)}, {"p": Pose((1,), 2)}, r"obs/p/position: expected a list, found tuple"),
            (Pose(1, 2), Swapped(2, 1), r"obs: expected a tuple of \(position, angle\), found Swapped"),
            (deque([1, 2]), (1, 2), "obs: expected a deque, found tuple"),
        ],
    )
    def test_wrong_container_is_refused(self, good: Any, bad: Any, message: str, n: int) -> None:
        with pytest.raises(BadSampleError, match=message):
            packer_of(good).pack([step(good)] * (n - 1) + [step(bad)])

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize(
        ("good", "same"),
        [
            ({"a": 1, "b": 2}, OrderedDict(b=2, a=1)),
            (OrderedDict(b=2, a=1), {"a": 1, "b": 2}),
            ({"a": 1, "b": 2}, defaultdict(int, a=1, b=2)),
            ((1, 2), Pose(1, 2)),
            (Pose(1, 2), (1, 2)),
            (deque([1, 2]), deque([1, 2])),
        ],
    )
    def test_container_that_means_the_same_is_taken(self, good: Any, same: Any, n: int) -> None:
        packer = packer_of(good)
        assert packer.pack([step(good)] * n).tobytes() == packer.pack([step(same)] * n).tobytes()

    @pytest.mark.parametrize("n", [1, 2])
    def test_defaultdict_does_not_make_up_a_missing_entry(self, n: int) -> None:
        """B38: looking the key up would also change the caller's dict."""
        obs = defaultdict(int, a=1, c=2)
        with pytest.raises(BadSampleError, match="found 'b' missing and 'c' extra"):
            packer_of({"a": 1, "b": 2}).pack([step(obs)] * n)
        assert dict(obs) == {"a": 1, "c": 2}

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_action_that_is_not_finite_is_refused(self, value: float) -> None:
        bad = np.array([0, value], np.float32)
        for samples in ([step(0.0, bad)], [step(0.0), step(0.0, bad)]):
            message = (
                rf"sample {len(samples) - 1} of .*: act: expected finite numbers \(float32\), found ndarray"
            )
            with pytest.raises(BadSampleError, match=message):
                packer_of(0.0).pack(samples)

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize(
        "leaf",
        [
            float("nan"),
            np.array([0, np.inf]),
            np.array([np.nan], np.float16),
            np.array([complex(0, np.inf)]),
            torch.tensor([1, float("nan")], dtype=torch.bfloat16),
            torch.tensor([-float("inf")], dtype=torch.bfloat16),
        ],
    )
    def test_named_observation_leaf_must_be_finite(self, leaf: Any, n: int) -> None:
        obs = {"a": {"x": leaf}, "b": leaf}
        for finite, name in [(("obs/a",), "obs/a/x"), (("obs/b",), "obs/b"), (("obs",), "obs/a/x")]:
            with pytest.raises(BadSampleError, match=rf"{name}: expected finite numbers \("):
                packer_of(obs, finite=finite).pack([step(obs)] * n)
        packer_of(obs).pack([step(obs)] * n)

    def test_finite_must_name_fields_of_the_schema(self) -> None:
        with pytest.raises(
            ValueError, match=r"finite must name fields of the schema \(obs/ab, .*got 'obs/a'$"
        ):
            packer_of({"ab": 1.0}, finite=("obs/a",))

    @pytest.mark.parametrize(
        ("bad", "found"),
        [
            (step(0.0)[:5], "5"),
            ((*step(0.0), 1), "7"),
            ((), "0"),
            (None, "NoneType None"),
            (7, "int 7"),
        ],
    )
    def test_sample_that_is_not_six_long_is_refused(self, bad: Any, found: str) -> None:
        for samples in ([bad], [step(0.0), bad]):
            message = (
                rf"sample {len(samples) - 1} of {len(samples)}: sample: expected the 6 values "
                rf"\(act, obs, rew, terminated, truncated, info\), found {found};"
            )
            with pytest.raises(BadSampleError, match=message):
                packer_of(0.0).pack(samples)

    def test_integer_that_overflows_is_refused(self) -> None:
        for samples in ([step(2**70)], [step(1), step(2**70)], [step(1), step(2**63)]):
            with pytest.raises(BadSampleError, match=r"obs: expected int64 of shape \(\).*, found "):
                packer_of(1).pack(samples)

    def test_uint16_is_no_bfloat16(self) -> None:
        packer = packer_of(torch.ones(3, dtype=torch.bfloat16))
        for n in (1, 2):
            with pytest.raises(BadSampleError, match=r"expected bfloat16 of shape \(3,\) .*found uint16"):
                packer.pack([step(np.ones(3, np.uint16))] * n)

    def test_bool_and_int_are_not_mixed(self) -> None:
        with pytest.raises(BadSampleError, match=r"sample 1 of 2: obs: expected int64 .*found bool"):
            packer_of(1).pack([step(1), step(True)])


class TestReset:
    @pytest.mark.parametrize("n", [1, 2])
    def test_missing_action_of_a_reset_is_a_row_of_zeros(self, n: int) -> None:
        sample = by_robot(step(0.0, None), episode_step=0)
        assert not packer_of(0.0).pack([sample] * n)["act"].any()
        assert not packer_of(0.0).pack([tuple(sample)] * n)["act"].any()

    @pytest.mark.parametrize("n", [1, 2])
    def test_missing_action_of_a_step_is_refused(self, n: int) -> None:
        samples = [by_robot(step(0.0))] * (n - 1) + [by_robot(step(0.0, None))]
        with pytest.raises(
            BadSampleError, match=rf"of {n}: act: expected an action in a step sample, found None"
        ):
            packer_of(0.0).pack(samples)

    def test_none_inside_an_action_is_no_reset(self) -> None:
        with pytest.raises(BadSampleError, match=r"act/1: expected float64 .*found NoneType None"):
            packer_of(0.0, (1.0, 2.0)).pack([step(0.0, (1.0, None))])

    def test_plain_sample_after_a_done_one_is_a_reset(self) -> None:
        samples = [step(0.0), step(0.0, truncated=True), step(0.0), step(0.0), step(0.0, None)]
        assert [is_reset(samples, i) for i in range(5)] == [True, False, True, False, True]

    def test_plain_sample_after_a_stamped_one_may_be_a_reset(self) -> None:
        samples = [by_robot(step(0.0), 4), step(0.0), by_robot(step(0.0), 0)]
        assert [is_reset(samples, i) for i in range(3)] == [False, True, True]


class TestInfo:
    def test_entry_is_kept_with_its_dtype(self) -> None:
        infos = [{"speed": np.float16(i), "other": "text"} for i in range(3)]
        rows = packer_of(0.0, speed=np.float16(0)).pack([step(0.0, info=info) for info in infos])
        assert rows["info/speed"].dtype == np.float16
        assert rows["info/speed"].tolist() == [0, 1, 2]

    @pytest.mark.parametrize("info", [{}, {"pace": 1}, None, defaultdict(float), [1]])
    def test_missing_entry_of_a_step_is_refused(self, info: Any) -> None:
        samples = [by_robot(step(0.0, info={"speed": 1.0})), by_robot(step(0.0, info=info))]
        message = r"'robot-7', sample 1 of 2: info: expected an entry 'speed', which info_keys names, found "
        with pytest.raises(BadSampleError, match=message):
            packer_of(0.0, speed=1.0).pack(samples)
        assert info is None or "speed" not in info

    def test_missing_entry_of_a_reset_is_zero(self) -> None:
        samples = [by_robot(step(0.0, None), 0), by_robot(step(0.0, info={"speed": (1.0, 2)}))]
        rows = packer_of(0.0, speed=(1.0, 2)).pack(samples)
        assert rows["info/speed/0"].tolist() == [0.0, 1.0]
        assert rows["info/speed/1"].tolist() == [0, 2]

    def test_entry_of_another_kind_is_refused_by_name(self) -> None:
        with pytest.raises(BadSampleError, match=r"info/speed: expected float64 .*found int64"):
            packer_of(0.0, speed=1.0).pack([step(0.0, info={"speed": 1})])
        with pytest.raises(BadSampleError, match=r"info\['speed'\]: expected a tuple, found float"):
            packer_of(0.0, speed=(1.0,)).pack([step(0.0, info={"speed": 1.0})])


class TestChecksums:
    @pytest.mark.parametrize("n", [1, 3])
    def test_worker_s_checksums_are_kept_beside_the_row(self, n: int) -> None:
        samples = with_crc(stamped(plain_episode(2), first_step=40, episode=6))[:n]
        schema = Schema(Nest.infer("obs", samples[0][1]), Nest.infer("act", samples[0][1]), with_crc=True)
        rows = Packer(schema).pack(samples)
        assert rows["crc/episode"].tolist() == [6, 6, 6][:n]
        assert rows["crc/step"].tolist() == [40, 41, 42][:n]
        assert not rows["crc/fields"][0].any()
        for row, sample in list(zip(rows, samples, strict=True))[1:]:
            fields = sample[5]["crc"]["fields"]
            assert row["crc/fields"].tolist() == [fields[name] for name in schema.crc_names]

    def test_sample_without_checksums_is_refused(self) -> None:
        samples = stamped(plain_episode(1))
        schema = Schema(Nest.infer("obs", samples[0][1]), Nest.infer("act", samples[0][1]), with_crc=True)
        with pytest.raises(IntegrityError, match="its worker was not in CRC mode"):
            Packer(schema).pack(samples)

    def test_checksums_of_other_leaves_are_refused(self) -> None:
        samples = with_crc(stamped(plain_episode(1)))
        schema = Schema(Nest.infer("obs", {"x": 1.0}), Nest.infer("act", samples[1][0]), with_crc=True)
        changed = [Sample((s[0], {"x": 1.0}, *s[2:]), s.stamp) for s in samples]
        message = (
            r"worker 'ann', step 1: the worker saw the leaves .*'prev_obs'.*, the memory stores .*'obs/x'"
        )
        with pytest.raises(IntegrityError, match=message):
            Packer(schema).pack(changed)


def test_worker_of_a_plain_sample_is_unstamped() -> None:
    assert worker_of(step(0.0)) == "unstamped"
    assert worker_of(by_robot(step(0.0))) == "robot-7"


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(BadSampleError, match=r"found str 'x{70,79}\.\.\.;"):
        packer_of(0.0).pack([step(0.0, rew="x" * 10_000)])
