"""Rows that are summed piece by piece while they are copied into files."""

from pathlib import Path

import numpy as np
import pytest

from makers import buffer_of
from nests import is_identical
from tmrl.memory import ReplayMemory, store
from tmrl.memory.stats import ArrivalTimes
from tmrl.transition import Sample, Stamp

CAPACITY = 30
PIXELS = store.SUMMED_AT_ONCE // 4
"""A row is a little more than a quarter of a piece, so three are summed at once."""


def images(first: int, n: int) -> list[Sample]:
    samples: list[Sample] = []
    for step in range(first, first + n):
        obs = np.random.default_rng(step).integers(0, 256, PIXELS, np.uint8)
        act = None if step == 0 else np.array([step], np.float32)
        samples.append(Sample((act, obs, float(step), False, False, {}), Stamp("w", 0, step, 0, step)))
    return samples


@pytest.mark.parametrize("sizes", [(2,), (7,), (31,), (20, 20, 5), (29, 1, 40), (95,)])
def test_rows_copied_in_pieces_are_as_in_ram_and_none_is_damaged(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    twin = ReplayMemory(memory_size=CAPACITY, seed=0)
    memory = ReplayMemory(memory_size=CAPACITY, seed=0, storage_path=tmp_path)
    first = 0
    for size in sizes:
        for each in (twin, memory):
            each.append(buffer_of(images(first, size)))
        first += size
    memory.close()
    with ReplayMemory(memory_size=CAPACITY, seed=0, storage_path=tmp_path) as reopened:
        assert reopened.stats().damaged == 0
        assert len(reopened) == len(twin)
        for index in range(len(twin)):
            assert is_identical(reopened.get_transition(index), twin.get_transition(index))


def test_no_row_arrived_in_the_future_though_the_clock_was_set_back_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times, again = ArrivalTimes(), ArrivalTimes()
    times.note(0)
    state = times.state()
    monkeypatch.setattr("time.time", lambda: 0.0)
    again.restore(state)
    assert 0 <= again.ages_s(np.array([0]))[0] < 60
