"""TorchMemory collates what `memory[i]` returns into tensors."""

import random

import numpy as np
import torch

from tmrl.buffer import Buffer
from tmrl.memory import TorchMemory
from user_memories import ListStorage


class ListMemory(ListStorage, TorchMemory):
    pass


def memory_of(rew, **kwargs):
    obs = {"image": np.zeros((2, 2), np.uint8), "speed": (np.float64(1.5), [3])}
    buffer = Buffer()
    buffer.memory = [(obs, np.float16([i, 1]), rew, obs, i == 0, False, {}) for i in range(6)]
    memory = ListMemory(**kwargs)
    memory.append(buffer)
    return memory


def test_batch_is_a_tuple_of_six_nested_as_the_observations():
    random.seed(0)
    batch = memory_of(np.float32(0.5), device="cpu", batch_size=4).sample()
    assert type(batch) is tuple
    prev_obs, new_act, rew, new_obs, terminated, truncated = batch
    assert prev_obs["image"].shape == (4, 2, 2)
    assert type(new_obs["speed"]) is tuple
    assert new_obs["speed"][1][0].tolist() == [3] * 4
    assert new_act.shape == (4, 2)
    assert rew.shape == terminated.shape == truncated.shape == (4,)


def test_parts_keep_their_dtype_and_flags_are_float32():
    """B46: a reward is what the memory returns, a python float is float64."""
    random.seed(0)
    prev_obs, new_act, rew, _, terminated, truncated = memory_of(0.5, device="cpu").sample()
    assert prev_obs["image"].dtype == torch.uint8
    assert prev_obs["speed"][0].dtype == torch.float64
    assert prev_obs["speed"][1][0].dtype == torch.int64
    assert new_act.dtype == torch.float16
    assert rew.dtype == torch.float64
    assert terminated.dtype == truncated.dtype == torch.float32
    assert memory_of(np.float32(0.5), device="cpu").sample()[2].dtype == torch.float32


def test_batch_is_put_on_the_device():
    """B53: not only the first part."""
    random.seed(0)
    prev_obs, *rest, _ = memory_of(0.5, device="meta").sample()
    assert prev_obs["speed"][1][0].device.type == rest[1].device.type == "meta"


def test_batch_does_not_alias_the_data():
    """B39."""
    random.seed(0)
    memory = memory_of(0.5, device="cpu", batch_size=2)
    batch = memory.sample()
    memory.data[0][0]["image"][:] = 9
    assert batch[0]["image"].max() == 0
