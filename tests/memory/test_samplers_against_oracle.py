"""Whatever the sampler: only what the oracle has is drawn, by the rules of the sampler."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.stateful import invariant, precondition, rule

from machines import MemoryMachine, StoredMachine, run
from tmrl.errors import EmptyMemoryError
from tmrl.memory import EmphasizeRecent, Epoch, Mixture, Prioritized, Recent, ReplayMemory, Sampler, Uniform
from tmrl.transition import Sample, Stamp


class SamplerMachine(MemoryMachine):
    """The same with any sampler: only what the oracle has is drawn. `ann` demonstrates."""

    make_sampler: Callable[[], Sampler] = Uniform

    is_same = staticmethod(StoredMachine.is_same)

    def make_memory(self, **kwargs: Any) -> ReplayMemory:
        return super().make_memory(sampler=self.make_sampler(), **kwargs)

    def append(self, samples: list[Any], continues: bool = False) -> None:
        super().append(
            [
                Sample(sample, sample.stamp._replace(source="demo"))
                if isinstance(sample, Sample) and sample.stamp.worker == "ann"
                else sample
                for sample in samples
            ],
            continues,
        )

    def ids(self, source: str = "") -> list[int]:
        """Ids of the oracle's transitions, oldest first."""
        return [
            row
            for row in range(self.oracle.oldest, len(self.oracle.rows))
            if (follows := self.oracle.rows[row].follows) is not None
            and follows >= self.oracle.oldest
            and source in {"", getattr(self.oracle.rows[row].sample, "stamp", PLAIN).source}
        ]

    @rule()
    def save_and_load(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.memory.save(folder)
        self.memory = ReplayMemory.load(folder, sampler=self.make_sampler())
        shutil.rmtree(folder)

    @precondition(lambda self: hasattr(self, "memory"))
    @rule(n=st.integers(1, 5))
    def draw(self, n: int) -> None:
        for _ in range(n if self.ids() else 0):
            assert set(self.memory.sample().ids.tolist()) <= set(self.ids())


PLAIN = Stamp("", 0, 0, 0, 0)


class WithoutReplacementMachine(SamplerMachine):
    make_sampler = staticmethod(lambda: Uniform(replace=False))

    @rule(n=st.integers(1, 5))
    def draw(self, n: int) -> None:
        if len(self.ids()) < self.memory.batch_size:
            with pytest.raises(EmptyMemoryError):
                self.memory.sample()
            return
        for _ in range(n):
            ids = self.memory.sample().ids.tolist()
            assert len(set(ids)) == self.memory.batch_size
            assert set(ids) <= set(self.ids())


class EpochMachine(SamplerMachine):
    """In each pass, no transition comes twice, and none that is there all the time is left out."""

    make_sampler = staticmethod(lambda: Epoch(seed=5))

    @rule(n=st.integers(1, 40))
    def draw(self, n: int) -> None:
        if not self.ids():
            return
        self.memory.batch_size = 1
        for _ in range(n):
            (row,) = self.memory.sample().ids.tolist()
            assert row in self.ids()
            epoch = self.memory.sampler.epoch
            if epoch != getattr(self, "epoch", None):
                assert getattr(self, "awaited", set()) & set(self.ids()) <= getattr(self, "seen", set())
                self.epoch, self.seen, self.awaited = epoch, set[int](), set(self.ids())
            assert row in self.awaited - self.seen
            self.seen.add(row)


class MixtureMachine(SamplerMachine):
    """The transitions of each source, in their order."""

    make_sampler = staticmethod(
        lambda: Mixture({"demo": 0.5, "online": 0.5}, {"online": Recent(3)}, empty="others")
    )

    @invariant()
    def each_source_has_its_transitions(self) -> None:
        if hasattr(self, "memory"):
            store = self.memory._store
            for source, index in zip(("demo", "online"), self.memory.sampler._indices, strict=True):
                pairs = index.pairs(np.arange(len(index)))
                assert store.drawn(pairs).ids().tolist() == self.ids(source)

    @rule(n=st.integers(1, 5))
    def draw(self, n: int) -> None:
        for _ in range(n if self.ids() else 0):
            ids = self.memory.sample().ids.tolist()
            assert len(ids) == 4
            n_demo = len(set(self.ids("demo"))) and (2 if self.ids("online") else 4)
            assert sum(row in self.ids("demo") for row in ids) == n_demo


class PrioritizedMachine(SamplerMachine):
    """Priorities in a dictionary, by the rules of the paper and nothing else."""

    make_sampler = staticmethod(lambda: Prioritized(alpha=0.6, eps=0.01))

    def append(self, samples: list[Any], continues: bool = False) -> None:
        if self.memory._store is not None:
            self.watch()
        super().append(samples, continues)
        if not hasattr(self, "priorities"):
            self.priorities = dict.fromkeys(self.ids(), 1.0)
            self.previous = {row: self.oracle.rows[row].follows for row in self.ids()}

    def watch(self) -> None:
        """A chunk evicts, then the rows that it brings get the largest priority left."""
        store = self.memory._store
        if "append" in vars(store):
            return
        append = store.append

        def watched(chunk: Any) -> None:
            first = store.ring.next
            append(chunk)
            self.forget(store.ring.oldest)
            largest = max(self.priorities.values(), default=1.0)
            for row in range(max(first, store.ring.oldest), store.ring.next):
                back = int(store.ring.back[row % store.ring.n_rows])
                if back > 0 and row - back >= store.ring.oldest:
                    self.priorities[row], self.previous[row] = largest, row - back

        store.append = watched

    def forget(self, oldest: int) -> None:
        self.priorities = {row: p for row, p in self.priorities.items() if self.previous[row] >= oldest}

    @rule(updates=st.lists(st.tuples(st.integers(0, 10**6), st.floats(-10, 10)), min_size=1, max_size=12))
    def update(self, updates: list[tuple[int, float]]) -> None:
        rows = np.array([number % len(self.oracle.rows) for number, _ in updates])
        errors = np.array([error for _, error in updates])
        ignored = self.memory.stats().ignored_updates
        self.memory.update_priorities(rows, errors)
        values = (np.abs(errors) + 0.01) ** 0.6
        gone = sum(row not in self.priorities for row in rows.tolist())
        assert self.memory.stats().ignored_updates == ignored + gone
        self.priorities |= {
            row: value
            for row, value in zip(rows.tolist(), values.tolist(), strict=True)
            if row in self.priorities
        }

    @rule(memory_size=st.integers(1, 50))
    def resize(self, memory_size: int) -> None:
        self.memory.memory_size = memory_size
        self.oracle.resize(memory_size)
        self.forget(self.oracle.oldest)

    @invariant()
    def every_priority_is_the_same(self) -> None:
        if hasattr(self, "priorities"):
            store = self.memory._store
            found = dict(enumerate(store.priorities().tolist(), store.ring.oldest))
            assert {row: p for row, p in found.items() if p} == self.priorities
            assert sorted(self.priorities) == self.ids()


class RecentMachine(SamplerMachine):
    make_sampler = staticmethod(lambda: Recent(half_life=4))


class EmphasizeRecentMachine(SamplerMachine):
    make_sampler = staticmethod(lambda: EmphasizeRecent(updates_per_cycle=3, c_min=2))


MACHINES = (
    WithoutReplacementMachine,
    PrioritizedMachine,
    RecentMachine,
    EmphasizeRecentMachine,
    EpochMachine,
    MixtureMachine,
)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("machine", MACHINES)
def test_every_sampler_agrees_with_the_oracle_over_600_operations(machine: type[MemoryMachine]) -> None:
    run(max_examples=24, steps=25, machine=machine)


@pytest.mark.stress
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("machine", MACHINES)
def test_every_sampler_agrees_with_the_oracle_over_50_000_operations(machine: type[MemoryMachine]) -> None:
    run(max_examples=1_000, steps=50, machine=machine)
