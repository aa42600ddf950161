"""Transitions that wait for further steps, by example; the property tests compare them with plain loops."""

from pathlib import Path
from typing import Any

import pytest

from makers import buffer_of, plain_episode, stamped
from tmrl.errors import EmptyMemoryError
from tmrl.memory import FrameStack, Mixture, NStep, Prioritized, ReplayMemory
from tmrl.memory.windows import window_from_json, window_to_json


def memory_of(*parts: list[Any], n: int = 3, **kwargs: Any) -> ReplayMemory:
    window = NStep(n, 0.5, wait=True)
    memory = ReplayMemory(**{"window": window, "batch_size": 8, "seed": 0, "memory_size": 100, **kwargs})
    for part in parts:
        memory.append(buffer_of(part))
    return memory


def drawable(memory: ReplayMemory) -> list[tuple[int, int]]:
    """The number of each transition's previous observation, and its steps; oldest first."""
    if not len(memory):
        return []
    batch = memory.take(range(len(memory)))
    return list(zip(batch.prev_obs.squeeze(-1).int().tolist(), batch.n_steps.tolist(), strict=True))


def test_a_transition_is_drawn_once_all_its_steps_are_there() -> None:
    memory = memory_of()
    episode = stamped(plain_episode(5))
    lengths = []
    for sample in episode:
        memory.append(buffer_of([sample]))
        lengths.append(len(memory))
    # The reset, two that wait, and one more for each further row, until the last row ends the episode.
    assert lengths == [0, 0, 0, 1, 2, 5]
    assert drawable(memory) == [(0, 3), (1, 3), (2, 3), (3, 2), (4, 1)]


def test_only_the_newest_of_each_stream_wait() -> None:
    """B10, B14: eight streams in turns; n - 1 of each wait, and none of the others."""
    streams = [stamped(plain_episode(6, 100 * i, "open"), f"w{i}") for i in range(8)]
    memory = memory_of(*map(list, zip(*streams, strict=True)))
    assert len(memory) == 8 * (6 - 2)
    assert {steps for _, steps in drawable(memory)} == {3}
    memory.append(buffer_of(stamped(plain_episode(1, 1000), "w3", 7, 1)))  # a reset without done
    waited = [(304, 2), (305, 1), (1000, 1)]
    assert [pair for pair in drawable(memory) if pair in waited] == waited


@pytest.mark.parametrize(
    ("after", "ending"),
    [
        (stamped(plain_episode(1, 90, "open"), first_step=9), "a gap"),
        (stamped(plain_episode(1, 90, "open"), first_step=5, episode=1), "a reset without done"),
        (stamped(plain_episode(1, 90, "open"), epoch=1), "a new life of the worker"),
    ],
)
def test_what_waits_is_drawn_shortened_when_its_stream_breaks(after: list[Any], ending: str) -> None:
    memory = memory_of(stamped(plain_episode(4, 0, "open")))
    assert drawable(memory) == [(0, 3), (1, 3)]
    memory.append(buffer_of(after))
    assert drawable(memory) == [(0, 3), (1, 3), (2, 2), (3, 1)], ending


def test_another_worker_breaks_nothing() -> None:
    memory = memory_of(stamped(plain_episode(4, 0, "open")), stamped(plain_episode(4, 10), "bob"))
    assert [pair for pair in drawable(memory) if pair[0] < 10] == [(0, 3), (1, 3)]


@pytest.mark.parametrize("epochs", [(1, 2), (2, 1)])
def test_an_earlier_life_of_a_worker_does_not_wait(epochs: tuple[int, int]) -> None:
    """Whatever the numbers of the two are, which say nothing of the time."""
    earlier = stamped(plain_episode(4, 0, "open"), epoch=epochs[0])
    memory = memory_of(earlier, stamped(plain_episode(1, 50, "open"), epoch=epochs[1]))
    assert drawable(memory) == [(0, 3), (1, 3), (2, 2), (3, 1)]


def test_samples_without_a_stamp_wait_for_the_next_buffer() -> None:
    memory = memory_of(plain_episode(3, 0, "open"))
    assert drawable(memory) == [(0, 3)]
    memory.append(buffer_of(plain_episode(1, 10, "open")[1:]), continues=True)
    assert drawable(memory) == [(0, 3), (1, 3)]
    memory.append(buffer_of(plain_episode(1, 20)))
    assert drawable(memory) == [(0, 3), (1, 3), (2, 2), (3, 1), (20, 1)]


def test_a_dataset_is_whole_as_it_is(tmp_path: Path) -> None:
    memory_of(stamped(plain_episode(4, 0, "open"))).save(tmp_path)
    memory = ReplayMemory(window=NStep(3, 0.5, wait=True))
    memory.append_dataset(tmp_path)
    assert drawable(memory) == [(0, 3), (1, 3), (2, 2), (3, 1)]


def test_a_batch_asked_for_too_early_is_refused() -> None:
    memory = memory_of(stamped(plain_episode(2, 0, "open")))
    with pytest.raises(EmptyMemoryError, match=r"8 transitions: the memory holds 0 whose further steps need"):
        memory.sample()


def test_what_waits_is_evicted_with_its_rows() -> None:
    memory = memory_of(
        stamped(plain_episode(2, 0, "open")), stamped(plain_episode(2, 10), "bob"), memory_size=5
    )
    assert drawable(memory) == [(10, 2), (11, 1)]
    memory.append(buffer_of(stamped(plain_episode(0, 20), "bob", 3, 1)))
    memory.append(buffer_of(stamped(plain_episode(0, 30), epoch=1)))  # which ends the wait
    assert drawable(memory) == [(10, 2), (11, 1)]


@pytest.mark.parametrize("stack", [None, FrameStack(2)])
def test_a_memory_with_what_waits_goes_on_alike_after_a_load(
    stack: FrameStack | None, tmp_path: Path
) -> None:
    def sampler() -> Mixture:
        return Mixture({"demo": 0.5, "online": 0.5}, {"online": Prioritized()})

    window = NStep(3, 0.5, stack, wait=True)
    streams = [stamped(plain_episode(9, 100 * i, "open"), f"w{i}") for i in range(4)]
    turns = list(map(list, zip(*streams, strict=True)))
    memory = memory_of(window=window, sampler=sampler())
    for i, turn in enumerate(turns[:7]):
        memory.append(buffer_of(turn[i > 2 : 2]), source="demo")
        memory.append(buffer_of(turn[2:]))
    # The wait of transitions of w0 ends after that of newer ones of w1.
    memory.append(buffer_of(stamped(plain_episode(2, 900), "w0", 3, 1)), source="demo")
    memory.save(tmp_path)
    loaded = ReplayMemory.load(tmp_path, sampler=sampler())
    assert loaded.window == window
    for turn in [[], *turns[7:]]:
        for each in (memory, loaded):
            each.append(buffer_of(turn[2:]))
        first, second = memory.sample(), loaded.sample()
        assert first.ids.tolist() == second.ids.tolist()
        assert first.rew.tolist() == second.rew.tolist()
        for each in (memory, loaded):
            each.update_priorities(first.ids, first.rew)


def test_a_window_says_whether_it_waits() -> None:
    window = NStep(3, 0.5, wait=True)
    assert window_from_json(window_to_json(window) or {}) == window
    # As it was written before there was a choice.
    assert not window_from_json({"kind": "NStep", "n": 3, "discount": 0.5, "stack": None}).waits
    assert NStep(3, 0.5).waits == 0
