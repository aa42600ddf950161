"""Every transition is equally likely at every fill level; each test's false-alarm rate is 1e-6."""

import numpy as np
import pytest
from scipy.stats import chi2

from makers import buffer_of, plain_episode
from tmrl.memory import ReplayMemory

CAPACITY = 12
FALSE_ALARM = 1e-6


def assert_uniform(memory: ReplayMemory, draws: int = 40_000) -> None:
    """Chi-square goodness of fit of what `sample()` draws against all that can be drawn."""
    expected_ids = memory.take(range(len(memory))).ids
    drawn = np.concatenate([memory.sample().ids for _ in range(draws // memory.batch_size)])
    found_ids, counts = np.unique(drawn, return_counts=True)
    assert set(found_ids) == set(expected_ids)
    expected = len(drawn) / len(expected_ids)
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < chi2.isf(FALSE_ALARM, max(1, len(expected_ids) - 1))


@pytest.mark.parametrize("fill", [1, CAPACITY - 1, CAPACITY, CAPACITY + 1, 2 * CAPACITY + 3])
@pytest.mark.parametrize("episode_length", [10**6, 3])
def test_draws_are_uniform_at_every_fill_level(fill: int, episode_length: int) -> None:
    """B19, B36: the first, the last and the newest transition are drawn as often as any other."""
    memory = ReplayMemory(memory_size=CAPACITY, batch_size=100, seed=fill)
    samples = [
        s for first in range(0, fill, episode_length) for s in plain_episode(min(episode_length, fill))
    ]
    memory.append(buffer_of(samples[: fill + 1] if episode_length > fill else samples))
    assert_uniform(memory)


def test_draws_are_uniform_with_holes_in_the_order() -> None:
    """Streams that interleave leave dead anchors between living ones."""
    memory = ReplayMemory(memory_size=60, batch_size=100, seed=5)
    rng = np.random.default_rng(1)
    made: dict[str, int] = dict.fromkeys("abcdef", 0)
    from tmrl.transition import Sample, Stamp

    for _ in range(400):
        worker = rng.choice(list(made))
        step = made[worker]
        obs = np.array([step], np.int64)
        memory.append(buffer_of([Sample((obs, obs, 0.0, False, False, {}), Stamp(worker, 0, step, 0, step))]))
        made[worker] += 1
    assert memory._store is not None
    assert memory._store.anchors.holes
    assert_uniform(memory)


def test_both_ways_of_drawing_use_the_same_indices() -> None:
    memory, twin = (ReplayMemory(memory_size=50, batch_size=64, seed=2) for _ in range(2))
    for each in (memory, twin):
        each.append(buffer_of(plain_episode(40)))
    for _ in range(20):
        assert memory.sample().ids.tolist() == twin.take(twin.sample_indices()).ids.tolist()
