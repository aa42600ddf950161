"""Changes of whole batches."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from makers import buffer_of
from tmrl.memory import FrameStack, RandomShift, ReplayMemory, to_float


def memory_of(**kwargs: Any) -> ReplayMemory:
    rng = np.random.default_rng(0)
    samples = [
        (
            None if i == 0 else np.float32(i),
            {"camera": rng.integers(0, 256, (12, 10), np.uint8), "speed": np.float32(i)},
            0.0,
            False,
            False,
            {},
        )
        for i in range(20)
    ]
    memory = ReplayMemory(batch_size=16, seed=0, **kwargs)
    memory.append(buffer_of(samples))
    return memory


def shifted_plainly(image: Any, down: int, right: int) -> Any:
    """Padded by its border on all sides, and cropped."""
    padded = np.pad(image, 16, mode="edge")
    height, width = image.shape
    return padded[16 + down : 16 + down + height, 16 + right : 16 + right + width]


def is_shifted(frames: list[Any], others: list[Any], down: int, right: int) -> bool:
    pairs = zip(frames, others, strict=True)
    return all((shifted_plainly(frame, down, right) == other).all() for frame, other in pairs)


@pytest.mark.parametrize("window", [None, FrameStack(3)])
def test_images_are_shifted_each_by_its_own_and_all_of_a_stack_alike(window: Any) -> None:
    shift = RandomShift(4, ("camera",), torch.Generator().manual_seed(0))
    memory = memory_of(window=window)
    seen: set[tuple[int, int]] = set()
    for _ in range(20):
        batch = memory.sample()
        found = shift(batch)
        assert found.ids.tolist() == batch.ids.tolist()
        assert found.prev_obs["speed"] is batch.prev_obs["speed"]
        for before, after in ((batch.prev_obs, found.prev_obs), (batch.new_obs, found.new_obs)):
            for image, other in zip(before["camera"], after["camera"], strict=True):
                frames = [f.numpy() for f in image.reshape(-1, 12, 10)]
                others = [f.numpy() for f in other.reshape(-1, 12, 10)]
                places = itertools.product(range(-4, 5), repeat=2)
                offsets = [place for place in places if is_shifted(frames, others, *place)]
                assert len(offsets) == 1
                seen.update(offsets)
    assert len(seen) > 70


def test_all_leaves_that_may_be_images_are_shifted_unless_they_are_named() -> None:
    batch = memory_of().sample()
    found = RandomShift(3)(batch)
    assert not torch.equal(found.new_obs["camera"], batch.new_obs["camera"])
    assert found.new_obs["speed"] is batch.new_obs["speed"]
    with pytest.raises(ValueError, match="pad must be at least 1, got 0"):
        RandomShift(0)


def test_bytes_become_floats_and_others_stay() -> None:
    memory = memory_of(batch_preprocessor=to_float)
    batch = memory.sample()
    memory.batch_preprocessor = None
    assert batch.prev_obs["camera"].dtype == torch.float32
    assert 0.9 < batch.prev_obs["camera"].max() <= 1
    assert batch.prev_obs["speed"].dtype == torch.float32
    assert torch.equal((batch.new_obs["camera"] * 255).round().byte(), _same(memory, batch).new_obs["camera"])


def _same(memory: ReplayMemory, batch: Any) -> Any:
    ids = memory.take(range(len(memory))).ids.tolist()
    return memory.take([ids.index(row_id) for row_id in batch.ids.tolist()])
