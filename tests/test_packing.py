"""Packing: every bit that goes in comes out, and the path for a single sample agrees with that for many."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from makers import ACT, packer_of, step
from nests import DTYPES, fill, is_identical, nests
from tmrl.errors import BadSampleError
from tmrl.nest import as_array, flatten
from tmrl.packing import Packer, _ScalarPath
from tmrl.schema import Nest

seeds = st.integers(0, 2**32)


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
        scalar = obs[()]
        assert packer_of(scalar).pack([step(scalar)] * n)["obs"].tobytes() == value.tobytes() * n

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
