"""Bugs that other replay buffers shipped, each as a test that would have caught it."""

from typing import Any

import numpy as np
import pytest
import torch

from makers import buffer_of, plain_episode, stamped
from tmrl.errors import BadSampleError
from tmrl.memory import ReplayMemory
from tmrl.transition import Sample, Stamp


def memory_of(*episodes: list[Any], **kwargs: Any) -> ReplayMemory:
    memory = ReplayMemory(**{"batch_size": 64, "seed": 0, **kwargs})
    for episode in episodes:
        memory.append(buffer_of(episode))
    return memory


def pairs(memory: ReplayMemory) -> list[tuple[int, int]]:
    """Numbers of the samples that each transition joins."""
    return [(int(t[0][0]), int(t[3][0])) for t in map(memory.get_transition, range(len(memory)))]


def test_timeout_keeps_its_final_observation() -> None:
    """B01: the next observation of a truncated step is the final one, not the next episode's first."""
    memory = memory_of(plain_episode(3, ending="truncated") + plain_episode(3, first=10))
    assert pairs(memory) == [(0, 1), (1, 2), (2, 3), (10, 11), (11, 12), (12, 13)]
    transition = memory.get_transition(2)
    assert (transition[4], transition[5]) == (False, True)


@pytest.mark.parametrize("memory_size", range(1, 12))
def test_no_transition_crosses_episodes_before_and_after_the_wrap(memory_size: int) -> None:
    """B02: short episodes, then a full ring; the newest slot is never paired with the oldest."""
    memory = memory_of(memory_size=memory_size)
    for episode in range(9):
        memory.append(buffer_of(plain_episode(2, first=10 * episode)))
        assert all(second == first + 1 for first, second in pairs(memory))


def test_as_many_transitions_as_steps() -> None:
    """B05, B07: nothing is made up at the end of an episode, and its final observation is there."""
    memory = memory_of(
        plain_episode(1), plain_episode(5, first=10), plain_episode(1, first=20, ending="truncated")
    )
    assert pairs(memory) == [(0, 1), (10, 11), (11, 12), (12, 13), (13, 14), (14, 15), (20, 21)]


def test_action_given_to_a_reset_is_in_no_transition() -> None:
    """B08: the step after a done one is a reset, whatever action came with it."""
    samples = plain_episode(2) + plain_episode(2, first=10)
    samples[3] = (np.array([99], np.float32), *samples[3][1:])
    memory = memory_of(samples)
    assert pairs(memory) == [(0, 1), (1, 2), (10, 11), (11, 12)]
    assert 99 not in [int(memory.get_transition(i)[1][0]) for i in range(4)]


def test_reset_without_done_breaks_the_stream() -> None:
    """B09: a reset in the middle of an episode, with stamps and without."""
    first, second = plain_episode(3, ending=""), plain_episode(2, first=10)
    expected = [(0, 1), (1, 2), (2, 3), (10, 11), (11, 12)]
    assert pairs(memory_of(first + second)) == expected
    stream = stamped(first) + stamped(second, first_step=4, episode=1)
    assert pairs(memory_of(stream)) == expected
    assert pairs(memory_of(stream[:4], stream[4:])) == expected


def test_buffers_of_plain_samples_are_not_joined_unless_the_caller_says_so() -> None:
    """B09: two calls of a training loop are not one episode."""
    episode = plain_episode(4)
    assert pairs(memory_of(episode[:2], episode[2:])) == [(0, 1), (2, 3), (3, 4)]
    memory = memory_of(episode[:2])
    memory.append(buffer_of(episode[2:]), continues=True)
    assert pairs(memory) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_interleaved_streams_are_not_mixed() -> None:
    """B10, B22: eight streams in chunks of three, counters as data."""
    streams = [stamped(plain_episode(20, first=100 * i), worker=f"w{i}") for i in range(8)]
    memory = ReplayMemory(memory_size=100)
    for start in range(0, 21, 3):
        memory.append(buffer_of([sample for stream in streams for sample in stream[start : start + 3]]))
    assert all(second == first + 1 for first, second in pairs(memory))
    assert len(memory) == 101 - 8


def test_every_transition_of_a_tiny_memory_is_drawn() -> None:
    """B19, B36: the last one too, and nothing past it."""
    memory = memory_of(plain_episode(6), memory_size=5)
    drawn = torch.cat([memory.sample().new_obs for _ in range(20)])
    assert sorted(set(drawn.flatten().tolist())) == [2, 3, 4, 5, 6]


def test_newest_transition_has_its_own_next_observation() -> None:
    """B36: not a stale or empty one."""
    memory = memory_of(plain_episode(9, ending="")[:4])
    assert pairs(memory)[-1] == (2, 3)


def test_caller_keeps_its_samples_as_they_were() -> None:
    """B38: nothing that is passed in is changed, and frozen arrays are welcome."""
    samples = plain_episode(5)
    for sample in samples[1:]:
        sample[0].setflags(write=False)
        sample[1].setflags(write=False)
    indices = np.arange(3)
    indices.setflags(write=False)
    buffer = buffer_of(samples)
    memory = ReplayMemory()
    memory.append(buffer)
    memory.take(indices)
    assert buffer.memory == samples
    assert all(a is b for a, b in zip(buffer.memory, samples, strict=True))


def test_samples_that_share_one_array_keep_their_own_values() -> None:
    """B39, B40: an environment that writes all its observations into one array, appended one by one."""
    memory = ReplayMemory()
    reused = np.zeros(1, np.float32)
    for step, sample in enumerate(plain_episode(4)):
        reused[:] = sample[1]
        stamp = Stamp("ann", 0, step, 0, step)
        memory.append(buffer_of([Sample((sample[0], reused, *sample[2:]), stamp)]))
    assert pairs(memory) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_batch_held_across_an_overwrite_keeps_its_values() -> None:
    """B40: the rows are overwritten in the ring, not in the batch."""
    memory = memory_of(plain_episode(50), memory_size=50, batch_size=16)
    batch = memory.sample()
    copy = batch.new_obs.clone()
    memory.append(buffer_of(plain_episode(50, first=1000)))
    assert torch.equal(batch.new_obs, copy)


@pytest.mark.parametrize("length", [4, 5, 6, 3 * 5 + 1, 100])
def test_append_of_more_than_the_capacity_keeps_the_newest(length: int) -> None:
    """B44: once each."""
    memory = memory_of(plain_episode(length), memory_size=5)
    newest = list(range(max(1, length - 4), length + 1))
    assert [second for _, second in pairs(memory)] == newest
    ids = memory.take(range(len(memory))).ids.tolist()
    assert ids == newest


def test_memory_that_is_not_full_hands_out_nothing_uninitialised() -> None:
    """B45: with the unused rows poisoned, no draw ever sees them."""
    memory = memory_of(plain_episode(3), memory_size=1000)
    assert memory._store is not None
    ring = memory._store.ring
    ring.rows["obs"][len(ring) :] = np.nan
    for _ in range(50):
        assert not torch.isnan(memory.sample().new_obs).any()
    with pytest.raises(IndexError):
        memory.get_transition(3)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64", "complex64"]
)
def test_dtypes_come_out_as_they_went_in(dtype: str) -> None:
    """B46: no silent float32 or float64."""
    values = [np.array([i % 2, 1], dtype) for i in range(4)]
    memory = memory_of([(v, v, np.float64(0.1), False, False, {}) for v in values])
    batch = memory.take([2])
    for part in (batch.prev_obs, batch.new_act, batch.new_obs):
        assert part.numpy().dtype == np.dtype(dtype)
    assert torch.equal(batch.rew, torch.tensor([0.1]))
    assert memory.get_transition(0)[3].dtype == np.dtype(dtype)


def test_other_dtype_than_before_is_not_cast() -> None:
    """B46: a cast is asked for by name, or there is none."""
    memory = memory_of(plain_episode(3))
    doubles = [(None, np.zeros(1), 0.0, False, False, {})]
    with pytest.raises(
        BadSampleError, match=r"obs: expected float32 of shape \(1,\) \(no cast is made unasked\)"
    ):
        memory.append(buffer_of(doubles))


def test_every_tensor_is_on_the_device_asked_for() -> None:
    """B53: with a device that is not the default one."""
    memory = memory_of(plain_episode(3), device="meta")
    batch = memory.sample()
    assert {tensor.device.type for tensor in (*batch, batch.weights)} == {"meta"}


def test_batch_is_as_large_as_asked_for_also_from_one_transition() -> None:
    """B56: with replacement, a batch is never silently smaller."""
    batch = memory_of(plain_episode(1), batch_size=37).sample()
    assert batch.rew.shape == (37,)


def test_churn_evicts_in_order() -> None:
    """B35: the oldest goes first, whatever the sizes of what arrives."""
    memory = ReplayMemory(memory_size=23)
    rng = np.random.default_rng(0)
    first = 0
    for _ in range(200):
        length = int(rng.integers(1, 30))
        memory.append(buffer_of(plain_episode(length, first=first)))
        first += 100
        seconds = [second for _, second in pairs(memory)]
        assert seconds == sorted(seconds)
        assert seconds[-1] == first - 100 + length
