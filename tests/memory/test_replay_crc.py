"""CRC debugging on the ready-made memory: exact, and it says where."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from makers import buffer_of, plain_episode, stamped, with_crc
from nests import SampleMaker, makers
from tmrl.errors import IntegrityError
from tmrl.memory import ReplayMemory

EPISODE = with_crc(stamped(plain_episode(10), worker="robot-1", first_step=100, episode=4))


def memory_of(samples: list[Any], **kwargs: Any) -> ReplayMemory:
    memory = ReplayMemory(**{"crc_debug": True, "batch_size": 16, "seed": 0, **kwargs})
    memory.append(buffer_of(samples))
    return memory


def test_untouched_transitions_pass_and_are_counted() -> None:
    memory = memory_of(EPISODE)
    for _ in range(5):
        memory.sample()
    assert memory.stats().crc_checked == 80
    memory[3]
    assert memory.crc_checked == 81


@settings(max_examples=60, deadline=None)
@given(makers(), st.booleans())
def test_equal_samples_never_fail(make: SampleMaker, one_by_one: bool) -> None:
    episode = [make(is_reset=i == 0, truncated=i == 4) for i in range(5)]
    memory = memory_of(
        with_crc(stamped(episode)), sample_preprocessor=(lambda *six: six) if one_by_one else None
    )
    memory.take(range(4))
    assert [memory[i] is not None for i in range(4)] == [True] * 4


@settings(max_examples=60, deadline=None)
@given(makers(), st.data())
def test_one_flipped_bit_anywhere_is_found(make: SampleMaker, data: st.DataObject) -> None:
    episode = [make(is_reset=i == 0, terminated=i == 3) for i in range(4)]
    memory = memory_of(with_crc(stamped(episode)))
    store = memory._store
    assert store is not None
    leaves = [leaf for leaf in store.schema.leaves if not leaf.name.startswith("crc/") and leaf.n_bytes]
    leaf = data.draw(st.sampled_from(leaves))
    # Flags are stored as bytes 0 and 1, of which only the last bit means anything.
    bit = 0 if leaf.dtype == np.bool_ else data.draw(st.integers(0, 7))
    byte = store.schema.offsets[leaf.name] + data.draw(st.integers(0, leaf.n_bytes - 1))
    row = data.draw(st.integers(1, 3))
    store.ring.rows.view(np.uint8).reshape(store.ring.n_rows, -1)[row, byte] ^= 1 << bit
    with pytest.raises(IntegrityError, match=leaf.name.replace("~", "[~]")) as batched:
        memory.take(range(3))
    assert f"step {row} (episode 0) of worker 'ann'" in str(batched.value)
    with pytest.raises(IntegrityError, match=leaf.name.replace("~", "[~]")):
        memory[row - 1]


def test_mismatch_names_leaf_worker_episode_and_step() -> None:
    memory = memory_of(EPISODE)
    assert memory._store is not None
    memory._store.ring.rows["obs"][7] += 1
    message = r"obs of step 107 \(episode 4\) of worker 'robot-1' is not what the worker saw"
    with pytest.raises(IntegrityError, match=message):
        memory.take([6])
    with pytest.raises(AssertionError, match="prev_obs of step 108"):
        memory.take([7])


def test_sample_without_checksums_is_refused_at_the_door() -> None:
    memory = memory_of(EPISODE)
    with pytest.raises(IntegrityError, match="its worker was not in CRC mode"):
        memory.append(buffer_of(stamped(plain_episode(2), worker="other")))
    assert (len(memory), memory.stats().workers["other"].refused) == (10, 3)


def test_checksums_of_other_leaves_are_refused_with_both_lists() -> None:
    episode = with_crc(stamped(plain_episode(2)))
    episode[1][5]["crc"]["fields"]["obs/extra"] = 1
    with pytest.raises(IntegrityError, match=r"the worker saw the leaves .*'obs/extra'.* the memory stores"):
        memory_of(episode)


def test_transition_carries_the_checksums_it_came_with() -> None:
    assert memory_of(EPISODE).get_transition(2)[6]["crc"] == EPISODE[3][5]["crc"]


def test_crc_debug_cannot_be_switched_on_later() -> None:
    memory = ReplayMemory()
    memory.append(buffer_of(EPISODE))
    memory.crc_debug = True
    with pytest.raises(ValueError, match="crc_debug must be chosen when the memory is made"):
        memory.sample()


def test_checks_also_run_under_python_O() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from memory.test_replay_crc import EPISODE, memory_of\n"
        "memory = memory_of(EPISODE); memory._store.ring.rows['rew'][3] += 1\n"
        "try: memory.take([2])\n"
        "except AssertionError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "rew of step 103" in result.stdout, result.stderr
