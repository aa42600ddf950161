"""The memory and the oracle do the same operations; every transition must be the same, bit by bit."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import optree
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nests import SampleMaker, is_identical, makers
from oracle import Oracle
from tmrl.errors import EmptyMemoryError
from tmrl.memory import EmphasizeRecent, Epoch, Mixture, Prioritized, Recent, ReplayMemory, Sampler, Uniform
from tmrl.networking import Buffer
from tmrl.transition import Sample, Stamp

WORKERS = ("ann", "bob", "eve")


class FakeWorker:
    """Produces the stamped samples of one stream."""

    def __init__(self, name: str, make: SampleMaker) -> None:
        self.name = name
        self.make = make
        self.epoch = 0
        self.restart()

    def restart(self) -> None:
        self.epoch += 1
        self.step = 0
        self.episode = -1
        self.episode_step = 0
        self.must_reset = True

    def produce(self, ending: str) -> Sample:
        """One sample: a reset if the episode ended or `ending` says so; `misuse` steps on after the end."""
        if (self.must_reset and (ending != "misuse" or self.episode < 0)) or ending == "reset":
            self.episode += 1
            self.episode_step = 0
            values = self.make(is_reset=True)
            self.must_reset = False
        else:
            # An uncollected step leaves no hole in the numbers; the worker begins another episode instead.
            self.episode += ending == "uncollected"
            self.episode_step += 1 + (ending == "uncollected")
            values = self.make(False, ending in {"terminated", "both"}, ending in {"truncated", "both"})
            self.must_reset = ending in {"terminated", "truncated", "both"}
        stamp = Stamp(self.name, self.epoch, self.step, self.episode, self.episode_step)
        self.step += 1
        return Sample(values, stamp)


ENDINGS = st.sampled_from(
    ["", "", "", "", "terminated", "truncated", "both", "reset", "misuse", "uncollected"]
)
FATES = st.sampled_from(["keep", "keep", "keep", "keep", "drop", "twice", "late", "unstamp", "restart"])


class MemoryMachine(RuleBasedStateMachine):
    """Operations on a ReplayMemory and on the oracle."""

    @initialize(make=makers(), memory_size=st.integers(1, 50), contiguous=st.booleans())
    def start(self, make: SampleMaker, memory_size: int, contiguous: bool) -> None:
        self.make = make
        self.workers = {name: FakeWorker(name, make) for name in WORKERS}
        self.late: list[Sample] = []
        self.oracle = Oracle(memory_size)
        self.memory = self.make_memory(memory_size=memory_size, contiguous=contiguous)
        # One transition tells the memory what samples look like, so that it never has to wait for an action.
        self.append([make(is_reset=True), make(is_reset=False)])

    @staticmethod
    def is_same(expected: Any, found: Any) -> bool:
        return is_identical(expected, found)

    def make_memory(self, **kwargs: Any) -> ReplayMemory:
        return ReplayMemory(batch_size=4, seed=0, **kwargs)

    def append(self, samples: list[Any], continues: bool = False) -> None:
        buffer = Buffer()
        buffer.memory = samples
        self.memory.append(buffer, continues=continues)
        self.oracle.append(list(samples), continues)

    @rule(plan=st.lists(st.tuples(st.sampled_from(WORKERS), ENDINGS, FATES), min_size=1, max_size=30))
    def append_stamped(self, plan: list[tuple[str, str, str]]) -> None:
        samples: list[Any] = []
        for name, ending, fate in plan:
            if fate == "restart":
                self.workers[name].restart()
            sample = self.workers[name].produce(ending)
            if fate == "late":
                self.late.append(sample)
            elif fate == "unstamp":
                samples.append(tuple(sample))
            elif fate != "drop":
                samples += [sample] * (2 if fate == "twice" else 1)
        self.append(samples)

    @precondition(lambda self: self.late)
    @rule()
    def append_late(self) -> None:
        self.append(self.late)
        self.late = []

    @rule(name=st.sampled_from(WORKERS), endings=st.lists(ENDINGS, min_size=1, max_size=60))
    def append_chunk(self, name: str, endings: list[str]) -> None:
        self.append([self.workers[name].produce(ending) for ending in endings])

    @rule(name=st.sampled_from(WORKERS), endings=st.lists(ENDINGS, min_size=1, max_size=8))
    def append_one_by_one(self, name: str, endings: list[str]) -> None:
        for ending in endings:
            self.append([self.workers[name].produce(ending)])

    @rule(endings=st.lists(ENDINGS, min_size=1, max_size=30), continues=st.booleans())
    def append_plain(self, endings: list[str], continues: bool) -> None:
        self.append(
            [
                self.make(e == "reset", e in {"terminated", "both"}, e in {"truncated", "both"})
                for e in endings
            ],
            continues,
        )

    @rule(memory_size=st.integers(1, 50))
    def resize(self, memory_size: int) -> None:
        self.memory.memory_size = memory_size
        self.oracle.resize(memory_size)

    @invariant()
    def every_transition_is_the_same(self) -> None:
        if not hasattr(self, "memory"):
            return
        expected = self.oracle.transitions()
        assert len(self.memory) == len(expected) <= self.memory.memory_size
        stats = self.memory.stats()
        assert (stats.duplicates, stats.gaps) == (self.oracle.duplicates, self.oracle.gaps)
        assert stats.appended == len(self.oracle.rows)
        assert stats.appended - stats.evicted == stats.rows == len(self.oracle.rows) - self.oracle.oldest
        if not expected:
            return
        batch = self.memory.take(range(len(expected)))
        for i, (before, sample) in enumerate(expected):
            act, obs, rew, terminated, truncated, _ = sample
            rew = np.float32(rew)
            found = self.memory.get_transition(i)
            assert self.is_same((before[1], act, rew, obs, terminated, truncated, {}), found)
            flags = np.float32(terminated), np.float32(truncated)
            assert self.is_same((before[1], act, rew, obs, *flags), _item(tuple(batch), i))
        ids = batch.ids.tolist()
        assert ids == sorted(set(ids))
        assert all(
            self.oracle.rows[row].sample is sample for row, (_, sample) in zip(ids, expected, strict=True)
        )


def _item(batch: Any, index: int) -> Any:
    return optree.tree_map(lambda tensor: tensor[index].numpy(), batch)


class StoredMachine(MemoryMachine):
    """The same with a memory that lives in a folder, and is opened again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())

    @staticmethod
    def is_same(expected: Any, found: Any) -> bool:
        """A namedtuple that was read back is of another class of the same name and fields."""
        names = [type(nest).__name__ if isinstance(nest, tuple) else "" for nest in (expected[3], found[3])]
        return names[0] == names[1] and is_identical(optree.tree_leaves(expected), optree.tree_leaves(found))

    def make_memory(self, **kwargs: Any) -> ReplayMemory:
        return super().make_memory(storage_path=self.folder, **kwargs)

    @rule(ending=st.sampled_from(["close", "abandon", "flush and abandon"]), moves=st.booleans())
    def reopen(self, ending: str, moves: bool) -> None:
        """`abandon` leaves the folder as `kill -9` would: rows, and a manifest that may be older."""
        if ending == "close":
            self.memory.close()
        else:
            if ending.startswith("flush"):
                self.memory.flush()
            self.memory._state.abandon()
        if moves:
            self.folder = self.folder.rename(self.folder.with_name(f"{self.folder.name}x"))
        self.memory = self.make_memory(memory_size=self.oracle.memory_size)
        stats = self.memory.stats()
        assert stats.damaged == 0
        if ending == "abandon":  # what was counted since the manifest was written, and is in no row, is gone
            assert stats.duplicates <= self.oracle.duplicates
            assert stats.gaps <= self.oracle.gaps
            self.oracle.duplicates, self.oracle.gaps = stats.duplicates, stats.gaps

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
        shutil.rmtree(self.folder)


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


def run(max_examples: int, steps: int, machine: type[MemoryMachine] = MemoryMachine) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(400)
def test_memory_agrees_with_the_oracle_over_20_000_operations() -> None:
    run(max_examples=400, steps=50)


@pytest.mark.timeout(400)
def test_memory_in_a_folder_agrees_with_the_oracle_over_2_000_operations() -> None:
    run(max_examples=80, steps=25, machine=StoredMachine)


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


@pytest.mark.stress
@pytest.mark.timeout(7200)
def test_memory_in_a_folder_agrees_with_the_oracle_over_100_000_operations() -> None:
    run(max_examples=2_000, steps=50, machine=StoredMachine)


@pytest.mark.stress
@pytest.mark.timeout(7200)
def test_memory_agrees_with_the_oracle_over_a_million_operations() -> None:
    run(max_examples=10_000, steps=100)
