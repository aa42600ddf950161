"""What fits no row is refused with worker, field, expected and found; what a reset may lack is zero."""

from collections import OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from makers import packer_of, plain_episode, robot_sample, stamped, step, with_crc
from nests import Pose
from tmrl.errors import BadSampleError, IntegrityError
from tmrl.packing import Packer, is_reset, worker_of
from tmrl.schema import Nest, Schema
from tmrl.transition import Sample


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
            ("abc", r"expected float32 of shape \(3,\), found str 'abc'"),
            ([[1.0], [1.0, 2.0]], r"expected float32 of shape \(3,\), found list \[\[1.0\], \[1.0, 2.0\]\]"),
            (torch.zeros(3, dtype=torch.bfloat16), r"found bfloat16 of shape \(3,\)"),
            (torch.zeros(3).to_sparse(), "found Tensor tensor"),
        ],
    )
    def test_wrong_leaf_is_refused_with_expected_and_found(
        self, bad: Any, message: str, n_before: int
    ) -> None:
        good = np.zeros(3, np.float32)
        samples = [robot_sample(step({"x": good}))] * n_before + [robot_sample(step({"x": bad}))]
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
        sample = robot_sample(step(0.0, None), episode_step=0)
        assert not packer_of(0.0).pack([sample] * n)["act"].any()
        assert not packer_of(0.0).pack([tuple(sample)] * n)["act"].any()

    @pytest.mark.parametrize("n", [1, 2])
    def test_missing_action_of_a_step_is_refused(self, n: int) -> None:
        samples = [robot_sample(step(0.0))] * (n - 1) + [robot_sample(step(0.0, None))]
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
        samples = [robot_sample(step(0.0), 4), step(0.0), robot_sample(step(0.0), 0)]
        assert [is_reset(samples, i) for i in range(3)] == [False, True, True]


class TestInfo:
    def test_entry_is_kept_with_its_dtype(self) -> None:
        infos = [{"speed": np.float16(i), "other": "text"} for i in range(3)]
        rows = packer_of(0.0, speed=np.float16(0)).pack([step(0.0, info=info) for info in infos])
        assert rows["info/speed"].dtype == np.float16
        assert rows["info/speed"].tolist() == [0, 1, 2]

    @pytest.mark.parametrize("info", [{}, {"pace": 1}, None, defaultdict(float), [1]])
    def test_missing_entry_of_a_step_is_refused(self, info: Any) -> None:
        samples = [robot_sample(step(0.0, info={"speed": 1.0})), robot_sample(step(0.0, info=info))]
        message = r"'robot-7', sample 1 of 2: info: expected an entry 'speed', which info_keys names, found "
        with pytest.raises(BadSampleError, match=message):
            packer_of(0.0, speed=1.0).pack(samples)
        assert info is None or "speed" not in info

    def test_missing_entry_of_a_reset_is_zero(self) -> None:
        samples = [robot_sample(step(0.0, None), 0), robot_sample(step(0.0, info={"speed": (1.0, 2)}))]
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
    assert worker_of(robot_sample(step(0.0))) == "robot-7"


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(BadSampleError, match=r"found str 'x{70,79}\.\.\.;"):
        packer_of(0.0).pack([step(0.0, rew="x" * 10_000)])
