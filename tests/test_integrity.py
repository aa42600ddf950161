"""Checksums: one flipped bit anywhere is found and named, and equal data never fail."""

import copy
import pickle
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nests import fill, nests
from tmrl.errors import IntegrityError
from tmrl.integrity import check_transition, crc_record, leaf_crc, nest_crcs, transition_crcs
from tmrl.nest import flatten, unflatten

PARTS = ("prev_obs", "act", "obs", "rew", "terminated", "truncated")
seeds = st.integers(0, 2**32)


def info_of(*transition: Any) -> dict[str, Any]:
    """What the worker `robot-1` puts into the info of step 1041, in episode 3."""
    fields = transition_crcs(*transition)
    return {"crc": {"worker": "robot-1", "episode": 3, "step": 1041, "fields": fields}}


def transition_of(obs: Any, act: Any, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [fill(obs, rng), fill(act, rng), fill(obs, rng), np.float32(rng.normal()), False, True]


def with_flipped_bit(leaf: Any, bit: int) -> Any:
    array = np.array(leaf)
    data = bytearray(array.tobytes())
    data[bit // 8 % len(data)] ^= 1 << (bit % 8)
    return np.frombuffer(bytes(data), array.dtype).reshape(array.shape)


@given(obs=nests, act=nests, seed=seeds, data=st.data())
def test_one_flipped_bit_anywhere_is_found_and_named(
    obs: Any, act: Any, seed: int, data: st.DataObject
) -> None:
    transition = transition_of(obs, act, seed)
    info = info_of(*transition)
    part = data.draw(st.integers(0, 3))
    leaves, treespec = flatten(transition[part])
    candidates = [i for i, leaf in enumerate(leaves) if np.asarray(leaf).nbytes]
    if not candidates:
        return
    i = data.draw(st.sampled_from(candidates))
    leaves[i] = with_flipped_bit(leaves[i], data.draw(st.integers(0, 10_000)))
    transition[part] = unflatten(treespec, leaves)
    name = list(nest_crcs(PARTS[part], transition[part]))[i]
    with pytest.raises(IntegrityError) as caught:
        check_transition(info, *transition)
    assert str(caught.value).startswith(
        f"{name} of step 1041 (episode 3) of worker 'robot-1' is not what the worker saw"
    )


@pytest.mark.parametrize(("part", "name"), [(4, "terminated"), (5, "truncated")])
def test_changed_flag_is_named(part: int, name: str) -> None:
    transition: list[Any] = [np.zeros(2), np.zeros(1), np.ones(2), 0.5, False, False]
    info = info_of(*transition)
    transition[part] = True
    with pytest.raises(
        IntegrityError, match=rf"^{name} of step 1041 \(episode 3\) of worker 'robot-1' is not"
    ):
        check_transition(info, *transition)


def test_all_changed_leaves_are_named() -> None:
    before = {"a": 1.0, "b": 2.0}
    info = info_of(before, 0, before, 0.0, False, False)
    with pytest.raises(
        IntegrityError, match=r"^prev_obs/a, obs/b of step 1041 .* are not what the worker saw"
    ):
        check_transition(info, {"a": 1.5, "b": 2.0}, 0, {"a": 1.0, "b": 2.5}, 0.0, False, False)


@given(obs=nests, act=nests, seed=seeds)
def test_equal_data_never_fail(obs: Any, act: Any, seed: int) -> None:
    transition = transition_of(obs, act, seed)
    info = pickle.loads(pickle.dumps(info_of(*transition)))
    check_transition(info, *transition)
    check_transition(info, *copy.deepcopy(transition))
    check_transition(info, *pickle.loads(pickle.dumps(transition)))


@pytest.mark.parametrize(
    ("seen", "handed_out"),
    [
        (3, np.int64(3)),
        (0.1, np.float64(0.1)),
        (True, np.bool_(True)),
        (2.5, np.array(2.5)),
        (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
        (np.arange(3), np.arange(3)[::-1][::-1]),
        (np.arange(3, dtype=">f4"), np.arange(3, dtype="<f4")),
        (np.arange(3, dtype=np.float32), torch.arange(3, dtype=torch.float32)),
        (torch.ones(3, dtype=torch.bfloat16), torch.ones(6, dtype=torch.bfloat16)[::2]),
        ((1.0, 2), [1.0, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ("lane 3", np.str_("lane 3")),
        (None, None),
    ],
)
def test_same_numbers_in_another_form_are_equal(seen: Any, handed_out: Any) -> None:
    check_transition(info_of(seen, 0, seen, 0, False, False), handed_out, 0, handed_out, 0.0, 0.0, np.False_)


@pytest.mark.parametrize(
    ("seen", "handed_out"),
    [
        (0.0, -0.0),
        (1, 1.0),
        (np.float32(1), np.float64(1)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(1), np.zeros(())),
        (np.zeros(0), np.zeros((0, 2))),
        (np.zeros(2, np.uint16), torch.zeros(2, dtype=torch.bfloat16)),
        (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float16)),
        (np.array([1, 2], np.int16), np.array([1, 2], np.uint16)),
    ],
)
def test_other_bits_dtype_or_shape_are_a_difference(seen: Any, handed_out: Any) -> None:
    with pytest.raises(IntegrityError, match="obs of step 1041"):
        check_transition(info_of(0, 0, seen, 0, False, False), 0, 0, handed_out, 0, False, False)


def test_rewards_and_flags_are_compared_as_float32() -> None:
    info = info_of(0, 0, 0, 0.1, False, True)
    check_transition(info, 0, 0, 0, np.float32(0.1), np.float32(0), np.float32(1))
    with pytest.raises(IntegrityError, match=r"^rew of step"):
        check_transition(info, 0, 0, 0, np.nextafter(np.float32(0.1), np.float32(1)), False, True)


def test_missing_and_additional_leaves_are_a_difference() -> None:
    info = info_of({"a": 1}, 0, {"a": 1}, 0, False, False)
    with pytest.raises(IntegrityError, match=r"prev_obs/a, .*prev_obs/b, .* are not what"):
        check_transition(info, {"b": 1}, 0, {"b": 1}, 0, False, False)


@pytest.mark.parametrize("info", [{}, {"crc_sample": ()}, None])
def test_sample_without_checksums_says_that_the_worker_was_not_in_crc_mode(info: Any) -> None:
    with pytest.raises(
        IntegrityError, match="its worker was not in CRC mode; give RolloutWorker crc_debug=True"
    ):
        check_transition(info, 0, 0, 0, 0, False, False)


def test_error_is_an_assertion_error_for_code_that_catches_that() -> None:
    with pytest.raises(AssertionError, match="carries no info"):
        check_transition({}, 0, 0, 0, 0, False, False)


@pytest.mark.parametrize("leaf", [object(), np.array([None, 1], object), {1, 2}])
def test_object_has_no_bytes_to_check(leaf: Any) -> None:
    """Its bytes are an address, which differs between equal objects."""
    with pytest.raises(IntegrityError, match=r"obs/a must be made of arrays, numbers and text .* got a "):
        nest_crcs("obs", {"a": leaf})


def test_checksum_is_the_same_in_every_release() -> None:
    """It is written beside the samples, so it must not depend on this process or version."""
    data = struct.pack("<3f", 0, 1, 2)
    assert leaf_crc(np.arange(3, dtype="<f4")) == zlib.crc32(b"float32(3,)" + data) == 0x9EB3387D
    assert leaf_crc(7) == leaf_crc(np.int64(7))


def test_checks_also_run_under_python_O() -> None:
    script = (
        "from tmrl.integrity import check_transition, transition_crcs\n"
        "fields = transition_crcs(0.0, 1.0, 2.0, 3.0, False, False)\n"
        "crc = {'worker': 'w', 'episode': 0, 'step': 1, 'fields': fields}\n"
        "check_transition({'crc': crc}, 0.0, 1.0, 2.5, 3.0, False, False)\n"
    )
    result = subprocess.run(
        [sys.executable, "-O", "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 1
    assert "IntegrityError: obs of step 1 (episode 0) of worker 'w'" in result.stderr


@pytest.mark.parametrize("record", [None, 7, {}, {"worker": "ann", "episode": 0, "step": 1}])
def test_malformed_checksums_are_refused(record: Any) -> None:
    with pytest.raises(
        IntegrityError, match=r"info\[\"crc\"\] must be a dict of .*'fields'.*; leave that key"
    ):
        crc_record({"crc": record})
