"""Samplers through the memory: what is drawn, how often, and what is refused. False alarms: 1e-6 a test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from frequencies import assert_distributed
from makers import buffer_of, plain_episode, stamped
from tmrl.errors import EmptyMemoryError
from tmrl.memory import EmphasizeRecent, Epoch, Mixture, Prioritized, Recent, ReplayMemory, Sampler, Uniform
from tmrl.memory.samplers import Choice, Index


def memory_of(n: int, sampler: Sampler | None, **kwargs: Any) -> ReplayMemory:
    """A memory of one episode of `n` steps; the id of a transition is its number, from 1 on."""
    memory = ReplayMemory(**{"memory_size": 1000, "batch_size": 100, "seed": 0, "sampler": sampler, **kwargs})
    memory.append(buffer_of(plain_episode(n)))
    return memory


def drawn_ids(memory: ReplayMemory, draws: int) -> Any:
    return np.concatenate([memory.sample().ids for _ in range(draws // memory.batch_size)])


ALL: dict[str, Callable[[], Sampler]] = {
    "uniform": Uniform,
    "without replacement": lambda: Uniform(replace=False),
    "prioritized": Prioritized,
    "recent": lambda: Recent(half_life=10),
    "emphasize recent": lambda: EmphasizeRecent(eta=0.9999, updates_per_cycle=7, c_min=20),
    "epoch": lambda: Epoch(seed=3),
    "mixture": lambda: Mixture(
        {"demo": 0.3, "online": 0.7}, {"demo": Epoch(), "online": Prioritized()}, empty="others"
    ),
}


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
class TestEverySampler:
    def test_indices_and_batches_are_of_the_same_transitions(self, make: Callable[[], Sampler]) -> None:
        memory, twin = memory_of(150, make()), memory_of(150, make())
        for _ in range(20):
            indices = twin.sample_indices()
            assert len(indices) == 100
            assert memory.sample().ids.tolist() == twin.take(indices).ids.tolist()

    def test_every_transition_can_be_drawn_the_first_and_the_newest_too(
        self, make: Callable[[], Sampler]
    ) -> None:
        """B19, B23, B28."""
        memory = memory_of(20, make(), batch_size=15)
        assert set(drawn_ids(memory, 15_000).tolist()) == set(range(1, 21))

    def test_a_memory_of_one_transition_is_enough(self, make: Callable[[], Sampler]) -> None:
        memory = memory_of(1, make(), batch_size=1)
        assert [memory.sample().ids.tolist() for _ in range(5)] == [[1]] * 5

    def test_an_empty_memory_says_what_to_do(self, make: Callable[[], Sampler]) -> None:
        with pytest.raises(EmptyMemoryError, match="the memory holds 0; append a Buffer first"):
            ReplayMemory(sampler=make()).sample()

    def test_a_chunk_larger_than_the_memory_leaves_only_what_is_held(
        self, make: Callable[[], Sampler]
    ) -> None:
        """B44."""
        memory = memory_of(151, make(), memory_size=50, batch_size=40)
        assert set(drawn_ids(memory, 2000).tolist()) <= set(range(102, 152))

    def test_a_memory_goes_on_after_save_and_load(self, make: Callable[[], Sampler], tmp_path: Path) -> None:
        """B48, B49: random numbers, priorities, steps, places in passes; also into a memory just made."""
        memory = memory_of(40, make(), memory_size=60, batch_size=16)
        for i in range(3):
            for _ in range(5):
                batch = memory.sample()
                if memory.sampler.has_priorities:
                    memory.update_priorities(batch.ids, batch.rew * 0.1)
            memory.append(buffer_of(plain_episode(20, first=100 * i)), source="demo")
            memory.save(tmp_path)
            loaded = ReplayMemory.load(tmp_path, sampler=make())
            memory.save(tmp_path / "again")
            fresh = ReplayMemory(memory_size=60, batch_size=16, sampler=make())
            fresh.restore(tmp_path / "again")
            for _ in range(10):
                ids = memory.sample().ids.tolist()
                assert ids == loaded.sample().ids.tolist() == fresh.sample().ids.tolist()
            assert torch.equal(memory.sample().weights, loaded.sample().weights)

    def test_a_memory_in_a_folder_goes_on(self, make: Callable[[], Sampler], tmp_path: Path) -> None:
        twin = memory_of(80, make(), memory_size=50, batch_size=16)
        with memory_of(80, make(), memory_size=50, batch_size=16, storage_path=tmp_path) as memory:
            for each in (twin, memory):
                batch = each.sample()
                if each.sampler.has_priorities:
                    each.update_priorities(batch.ids, batch.rew)
        with ReplayMemory(memory_size=50, batch_size=16, storage_path=tmp_path, sampler=make()) as memory:
            for _ in range(10):
                assert memory.sample().ids.tolist() == twin.sample().ids.tolist()

    def test_a_sampler_belongs_to_one_memory(self, make: Callable[[], Sampler]) -> None:
        sampler = make()
        ReplayMemory(sampler=sampler)
        with pytest.raises(ValueError, match=r"must belong to one memory, but this .* make another"):
            ReplayMemory(sampler=sampler)

    def test_a_sample_preprocessor_sees_what_was_drawn(self, make: Callable[[], Sampler]) -> None:
        memory = memory_of(30, make(), sample_preprocessor=lambda *six: six, batch_size=10)
        batch = memory.sample()
        assert batch.rew.tolist() == batch.ids.tolist()


class TestUniform:
    def test_without_replacement_no_transition_comes_twice_in_a_batch(self) -> None:
        memory = memory_of(120, Uniform(replace=False))
        for _ in range(50):
            assert len(set(memory.sample().ids.tolist())) == 100
        memory.batch_size = 120
        assert sorted(memory.sample().ids.tolist()) == list(range(1, 121))

    def test_without_replacement_all_are_equally_likely(self) -> None:
        memory = memory_of(150, Uniform(replace=False), batch_size=10)
        assert_distributed(drawn_ids(memory, 100_000), dict.fromkeys(range(1, 151), 1 / 150))

    def test_too_few_transitions_are_an_error_and_not_a_smaller_batch(self) -> None:
        """B56."""
        memory = memory_of(99, Uniform(replace=False))
        with pytest.raises(
            EmptyMemoryError,
            match="cannot draw 100 transitions without replacement: there are 99; append more, or choose a "
            "smaller batch_size",
        ):
            memory.sample()
        assert memory.stats().draws == 0


class TestRecent:
    @pytest.mark.parametrize("half_life", [0.5, 7, 60, 1e9])
    def test_frequencies_halve_with_each_half_life(self, half_life: float) -> None:
        memory = memory_of(200, Recent(half_life))
        shares = 2.0 ** (-np.arange(200) / half_life)
        expected = {200 - age: share for age, share in enumerate((shares / shares.sum()).tolist())}
        assert_distributed(drawn_ids(memory, 100_000), expected)

    @pytest.mark.parametrize("half_life", [0, -1, float("nan"), float("inf")])
    def test_half_life_must_be_above_zero(self, half_life: float) -> None:
        with pytest.raises(
            ValueError, match=f"half_life must be a number of transitions above 0, got {half_life}"
        ):
            Recent(half_life)


class TestEmphasizeRecent:
    def test_draw_k_is_uniform_over_the_newest_c_k(self) -> None:
        """Wang & Ross 2019: c_k = max(N eta^(k 1000 / K), c_min)."""
        cycle, n = 5, 500
        memory = memory_of(n, EmphasizeRecent(eta=0.998, updates_per_cycle=cycle, c_min=120))
        drawn: list[list[Any]] = [[] for _ in range(cycle)]
        for _ in range(200):
            for k in range(cycle):
                drawn[k].append(memory.sample().ids)
        for k, ids in enumerate(drawn, 1):
            newest = max(int(n * 0.998 ** (k * 1000 / cycle)), 120)
            expected = dict.fromkeys(range(n - newest + 1, n + 1), 1 / newest)
            assert_distributed(np.concatenate(ids), expected)

    def test_fewer_transitions_than_c_min_are_all_drawn(self) -> None:
        memory = memory_of(50, EmphasizeRecent())
        assert set(drawn_ids(memory, 5000).tolist()) == set(range(1, 51))

    def test_arguments_out_of_range_are_refused(self) -> None:
        for eta in (0, 1.1, float("nan")):
            with pytest.raises(ValueError, match=f"eta must be above 0 and at most 1, got {eta}"):
                EmphasizeRecent(eta)
        with pytest.raises(ValueError, match="updates_per_cycle and c_min must be at least 1, got 0 and 5"):
            EmphasizeRecent(updates_per_cycle=0, c_min=5)


class TestEpoch:
    def test_every_transition_comes_once_in_each_pass(self) -> None:
        """B54. The last batch of a pass goes on into the next one."""
        sampler = Epoch(seed=1)
        memory = memory_of(70, sampler, batch_size=32)
        ids = drawn_ids(memory, 32 * 35)
        passes = ids.reshape(16, 70)
        assert all(sorted(each) == list(range(1, 71)) for each in passes.tolist())
        assert len({tuple(each) for each in passes.tolist()}) == 16
        assert sampler.epoch == 15

    def test_the_order_depends_on_the_seed_of_the_sampler_only(self) -> None:
        first, same, other = (
            drawn_ids(memory_of(70, Epoch(seed), seed=i), 200).tolist() for i, seed in enumerate((1, 1, 2))
        )
        assert first == same != other

    def test_what_is_appended_during_a_pass_joins_the_next(self) -> None:
        memory = memory_of(30, Epoch(), batch_size=10)
        first = memory.sample().ids.tolist()
        memory.append(buffer_of(plain_episode(20)))
        memory.batch_size = 20
        assert sorted(first + memory.sample().ids.tolist()) == list(range(1, 31))
        memory.batch_size = 50
        assert sorted(memory.sample().ids.tolist()) == [*range(1, 31), *range(32, 52)]

    def test_what_is_evicted_during_a_pass_is_passed_over(self) -> None:
        memory = memory_of(30, Epoch(), batch_size=10, memory_size=30)
        first = memory.sample().ids.tolist()
        memory.append(buffer_of(plain_episode(9)))
        left = [row for row in range(1, 31) if row not in first and row > 10 + 1]
        memory.batch_size = len(left)
        assert sorted(memory.sample().ids.tolist()) == left

    def test_a_pass_outlives_a_resize(self) -> None:
        memory = memory_of(60, Epoch(), batch_size=20, memory_size=60)
        first = memory.sample().ids.tolist()
        memory.memory_size = 40
        left = [row for row in range(21, 61) if row not in first]
        memory.batch_size = len(left)
        assert sorted(memory.sample().ids.tolist()) == left

    def test_a_batch_may_be_larger_than_the_memory(self) -> None:
        ids = memory_of(7, Epoch(), batch_size=100).sample().ids.tolist()
        assert all(sorted(ids[i : i + 7]) == list(range(1, 8)) for i in range(0, 98, 7))


class Newest(Sampler):
    """A sampler of one's own: the newest transitions, newest first."""

    def draw(self, batch_size: int, index: Index) -> Choice:
        return Choice(index.pairs(np.arange(len(index) - 1, len(index) - 1 - batch_size, -1)))


def test_a_sampler_of_ones_own_is_one_class() -> None:
    memory = memory_of(30, Newest(), batch_size=3)
    assert memory.sample().ids.tolist() == [30, 29, 28]
    memory.append(buffer_of(stamped(plain_episode(5))))
    assert memory.sample().ids.tolist() == [36, 35, 34]
    assert torch.equal(memory.sample().weights, torch.ones(3))


def test_a_sampler_of_another_kind_begins_afresh_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = memory_of(30, Prioritized())
    memory.update_priorities(np.arange(1, 31), np.arange(30))
    memory.save(tmp_path)
    for sampler in (Prioritized(alpha=0.5), Uniform(), None):
        caplog.clear()
        loaded = ReplayMemory.load(tmp_path, sampler=sampler, batch_size=30)
        assert "was saved with the sampler Prioritized(alpha=0.6) and goes on with" in caplog.text
        assert torch.equal(loaded.sample().weights, torch.ones(30))


def test_uniform_draws_are_those_of_the_versions_before_there_were_other_samplers() -> None:
    memory = memory_of(300, None, batch_size=5)
    numbers = np.random.default_rng(0).random(16 * 5)
    for i in range(16):
        expected = (numbers[5 * i : 5 * i + 5] * 300).astype(int) + 1
        assert memory.sample().ids.tolist() == expected.tolist()
