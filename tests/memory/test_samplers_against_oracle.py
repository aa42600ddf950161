"""Whatever the sampler and the window: only what the oracle has is drawn, by the rules of the sampler.

Every sampler goes with every window, and each pair is driven by the same operations: streams in any order
with gaps and duplicates, eviction, resizes, late writes, and saves and loads in between.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import optree
import pytest
from hypothesis.stateful import initialize, invariant, precondition, rule

from histories import Shape, shapes
from machines import MemoryMachine, StoredMachine, run
from memory.test_history_against_oracle import HistoryMachine
from memory.test_windows import WindowMachine, assert_windows_are_the_same
from nests import SampleMaker, makers
from oracle import Oracle, RingsOracle
from tmrl.errors import EmptyMemoryError
from tmrl.memory import (
    EmphasizeRecent,
    Epoch,
    FrameStack,
    Mixture,
    NStep,
    Prioritized,
    Recent,
    ReplayMemory,
    Sampler,
    Sequence,
    Transition,
    Uniform,
)
from tmrl.transition import Sample, Stamp


class SamplerMachine(MemoryMachine):
    """The same with any sampler: only what the oracle has is drawn. `ann` demonstrates."""

    make_sampler: Callable[[], Sampler] = Uniform

    is_same = staticmethod(StoredMachine.is_same)

    def make_memory(self, **kwargs: Any) -> ReplayMemory:
        return super().make_memory(sampler=self.make_sampler(), **kwargs)

    def ids(self, source: str = "") -> list[int]:
        """Ids of the oracle's transitions, oldest first."""
        return [
            self.oracle.id_of(row)
            for row in self.numbers()
            if source in {"", getattr(self.oracle.rows[row].sample, "stamp", PLAIN).source}
        ]

    @rule()
    def save_and_load(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.memory.save(folder)
        self.memory = ReplayMemory.load(folder, sampler=self.make_sampler())
        shutil.rmtree(folder)

    @rule(rewards=st.dictionaries(st.integers(0, 10**6), st.floats(-9, 9, width=32), min_size=1, max_size=4))
    def write_late(self, rewards: dict[int, float]) -> None:
        chosen = {number % len(self.oracle.rows): reward for number, reward in rewards.items()}
        ignored = self.memory.stats().writes_ignored
        ids = np.array([self.oracle.id_of(number) for number in chosen])
        self.memory.write(ids, rew=np.array(list(chosen.values())))
        gone = [number for number in chosen if not self.oracle.is_held(number)]
        assert self.memory.stats().writes_ignored == ignored + len(gone)
        for number, reward in chosen.items():
            row = self.oracle.rows[number]
            values = (*row.sample[:2], reward, *row.sample[3:])
            row.sample = Sample(values, row.sample.stamp) if isinstance(row.sample, Sample) else values

    @precondition(lambda self: hasattr(self, "memory"))
    @rule(n=st.integers(1, 5))
    def draw(self, n: int) -> None:
        for _ in range(n if self.ids() else 0):
            assert set(self.drawn()) <= set(self.ids())

    def drawn(self) -> list[int]:
        """Ids of a batch, after a look at whether its transitions are what they are to be."""
        batch = self.memory.sample()
        ids = batch.ids.tolist()
        same = self.memory.take([self.ids().index(row) for row in ids])
        assert all(
            one.numpy().tobytes() == other.numpy().tobytes()
            for one, other in zip(*map(optree.tree_leaves, (tuple(batch), tuple(same))), strict=True)
        )
        return ids


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
            ids = self.drawn()
            assert len(set(ids)) == self.memory.batch_size
            assert set(ids) <= set(self.ids())


class EpochMachine(SamplerMachine):
    """In each pass, no transition comes twice, and none that is there all the time is left out.

    What has to wait when a pass begins may come in it, or not.
    """

    make_sampler = staticmethod(lambda: Epoch(seed=5))

    @rule(n=st.integers(1, 12))
    def draw(self, n: int) -> None:
        if not self.ids():
            return
        self.memory.batch_size = 1
        for _ in range(n):
            (row,) = self.drawn()
            assert row in self.ids()
            epoch = self.memory.sampler.epoch
            if epoch != getattr(self, "epoch", None):
                assert getattr(self, "awaited", set()) & set(self.ids()) <= getattr(self, "seen", set())
                self.epoch, self.seen, self.awaited = epoch, set[int](), set(self.ids())
                self.first, self.stop = self.oracle.oldest, len(self.oracle.rows)
            assert self.first <= row < self.stop
            assert row not in self.seen
            self.seen.add(row)


class MixtureMachine(SamplerMachine):
    """The transitions of each source, in their order."""

    make_sampler = staticmethod(
        lambda: Mixture({"demo": 0.5, "online": 0.5}, {"online": Recent(3)}, empty="others")
    )
    SOURCES = ("demo", "online")

    @invariant()
    def each_source_has_its_transitions(self) -> None:
        if hasattr(self, "memory"):
            store = self.memory._store
            for source, index in zip(self.SOURCES, self.memory.sampler._indices, strict=True):
                pairs = index.pairs(np.arange(len(index)))
                assert store.drawn(pairs).ids().tolist() == self.ids(source)

    @rule(n=st.integers(1, 5))
    def draw(self, n: int) -> None:
        for _ in range(n if self.ids() else 0):
            ids = self.drawn()
            assert len(ids) == 4
            n_demo = len(set(self.ids("demo"))) and (2 if self.ids("online") else 4)
            assert sum(row in self.ids("demo") for row in ids) == n_demo


class KeptMachine(MixtureMachine):
    """Demonstrations in a ring of their own."""

    keep: dict[str, int] = {"demo": 7}  # noqa: RUF012 - one for each class

    def make_sampler(self) -> Sampler:
        return Mixture({"online": 0.5, "demo": 0.5}, {"demo": Prioritized()}, empty="others", keep=self.keep)

    SOURCES = ("online", "demo")

    def make_oracle(self, memory_size: int) -> Oracle:
        return RingsOracle(memory_size + sum(self.keep.values()), self.keep)

    def make_memory(self, memory_size: int, **kwargs: Any) -> ReplayMemory:
        return super().make_memory(memory_size=memory_size + sum(self.keep.values()), **kwargs)

    @rule(memory_size=st.integers(1, 50))
    def resize(self, memory_size: int) -> None:
        super().resize(memory_size + sum(self.keep.values()))

    @invariant()
    def no_row_is_counted_twice(self) -> None:
        if hasattr(self, "memory"):
            stats = self.memory.stats()
            assert stats.appended == len(self.oracle.rows)
            assert stats.rows == stats.appended - stats.evicted == len(self.oracle.held())
            assert len(self.memory) <= self.memory.memory_size == self.oracle.memory_size


class AllKeptMachine(KeptMachine):
    """Every source in a ring of its own; what has no stamp is online."""

    keep: dict[str, int] = {"online": 20, "demo": 5}  # noqa: RUF012


class StoredKeptMachine(StoredMachine, KeptMachine):
    """Rings that live in a folder, which is opened again and again, also with rings of other sizes."""

    def open_again(self) -> ReplayMemory:
        return self.make_memory(memory_size=self.oracle.memory_size - sum(self.keep.values()))

    @rule(n=st.integers(1, 12))
    def keep_another_number(self, n: int) -> None:
        others = self.oracle.memory_size - sum(self.keep.values())
        self.keep = {**self.keep, "demo": n}
        self.memory.close()
        self.oracle.keep = self.keep
        self.oracle.resize(others + sum(self.keep.values()))
        self.memory = self.open_again()

    @rule()
    def save_and_load(self) -> None:
        saved, folder = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
        self.memory.save(saved)
        self.memory.close()
        shutil.rmtree(self.folder)
        self.folder = folder
        self.memory = ReplayMemory.load(saved, sampler=self.make_sampler(), storage_path=folder)
        shutil.rmtree(saved)


class StoredAllKeptMachine(StoredKeptMachine, AllKeptMachine):
    """The same with every source in a ring of its own."""


class PrioritizedMachine(SamplerMachine):
    """Priorities in a dictionary, by the rules of the paper and nothing else."""

    make_sampler = staticmethod(lambda: Prioritized(alpha=0.6, eps=0.01))

    def append(self, samples: list[Any], continues: bool = False) -> None:
        if self.memory._store is not None:
            self.watch()
        super().append(samples, continues)
        if not hasattr(self, "priorities"):
            self.priorities = dict.fromkeys(self.ids(), 1.0)

    def watch(self) -> None:
        """A chunk evicts, then what can be drawn from now on gets the largest priority left."""
        store = self.memory._store
        if "append" in vars(store):
            return
        append = store.append

        def watched(chunk: Any) -> None:
            append(chunk)
            there = store.draw(np.arange(len(store.anchors))).ids().tolist()
            self.forget(there)
            largest = max(self.priorities.values(), default=1.0)
            self.priorities = dict.fromkeys(there, largest) | self.priorities

        store.append = watched

    def forget(self, there: list[int]) -> None:
        self.priorities = {row: p for row, p in self.priorities.items() if row in there}

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
        self.forget(self.ids())

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


class FixedWindowMachine(WindowMachine):
    """One window, whatever the samples look like."""

    @initialize(make=makers(), memory_size=st.integers(1, 50), contiguous=st.booleans())
    def start(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, make: SampleMaker, memory_size: int, contiguous: bool
    ) -> None:
        MemoryMachine.start(self, make, memory_size, contiguous)

    @invariant()
    def every_transition_is_the_same(self) -> None:
        if hasattr(self, "memory"):
            assert_windows_are_the_same(self)


class FixedHistoryMachine(HistoryMachine):
    """Any history with one window."""

    @initialize(shape=shapes, memory_size=st.integers(1, 50), contiguous=st.booleans())
    def start(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, shape: Shape, memory_size: int, contiguous: bool
    ) -> None:
        HistoryMachine.start(self, shape, memory_size, contiguous, self.window, True)


SAMPLERS = (
    SamplerMachine,
    WithoutReplacementMachine,
    PrioritizedMachine,
    RecentMachine,
    EmphasizeRecentMachine,
    EpochMachine,
    MixtureMachine,
    KeptMachine,
    AllKeptMachine,
    StoredKeptMachine,
    StoredAllKeptMachine,
)

WINDOWS: dict[str, tuple[type[MemoryMachine], Any]] = {
    "Transition": (FixedWindowMachine, Transition()),
    "NStep": (FixedWindowMachine, NStep(3, 0.5)),
    "NStep with wait": (FixedWindowMachine, NStep(3, 0.5, FrameStack(2), wait=True)),
    "Sequence": (FixedWindowMachine, Sequence(4, 1, stride=2)),
    "FrameStack": (FixedWindowMachine, FrameStack(3)),
    "History": (FixedHistoryMachine, Transition()),
    "History, NStep with wait": (FixedHistoryMachine, NStep(2, 0.5, wait=True)),
}


def pair(sampler: type[MemoryMachine], window: str) -> type[MemoryMachine]:
    machine, made = WINDOWS[window]
    return type(f"{sampler.__name__}, {window}", (sampler, machine), {"window": made})


@pytest.mark.timeout(400)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_agrees_with_the_oracle_on_every_window(
    sampler: type[MemoryMachine], window: str
) -> None:
    run(max_examples=6, steps=12, machine=pair(sampler, window))


@pytest.mark.stress
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_agrees_with_the_oracle_on_every_window_over_10_000_operations(
    sampler: type[MemoryMachine], window: str
) -> None:
    run(max_examples=200, steps=50, machine=pair(sampler, window))
