"""State machines that drive a memory and the oracle with the same operations, and compare them bit by bit."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import optree
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
from tmrl.memory import ReplayMemory
from tmrl.networking import Buffer
from tmrl.transition import Sample, Stamp

WORKERS = ("ann", "bob", "eve")


class FakeWorker:
    """Produces the stamped samples of one stream. `ann` demonstrates, `eve` does now and then."""

    def __init__(self, name: str, make: SampleMaker) -> None:
        self.name = name
        self.make = make
        self.epoch = 1 << 20
        self.restart()

    def restart(self) -> None:
        self.epoch -= 1  # as after a clock was set back
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
        is_demo = self.name == "ann" or (self.name == "eve" and self.step % 7 > 3)
        source = "demo" if is_demo else "online"
        stamp = Stamp(self.name, self.epoch, self.step, self.episode, self.episode_step, source)
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
        self.oracle = self.make_oracle(memory_size)
        self.memory = self.make_memory(memory_size=memory_size, contiguous=contiguous)
        # One transition tells the memory what samples look like, so that it never has to wait for an action.
        self.append([make(is_reset=True), make(is_reset=False)])

    @staticmethod
    def is_same(expected: Any, found: Any) -> bool:
        return is_identical(expected, found)

    def make_memory(self, **kwargs: Any) -> ReplayMemory:
        return ReplayMemory(batch_size=4, seed=0, **kwargs)

    def make_oracle(self, memory_size: int) -> Oracle:
        return Oracle(memory_size)

    def numbers(self) -> list[int]:
        """Numbers of the oracle's rows whose transitions can be drawn, oldest first."""
        return self.oracle.anchors()

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
        self.memory = self.open_again()
        stats = self.memory.stats()
        assert stats.damaged == 0
        if ending == "abandon":  # what was counted since the manifest was written, and is in no row, is gone
            assert stats.duplicates <= self.oracle.duplicates
            assert stats.gaps <= self.oracle.gaps
            self.oracle.duplicates, self.oracle.gaps = stats.duplicates, stats.gaps

    def open_again(self) -> ReplayMemory:
        return self.make_memory(memory_size=self.oracle.memory_size)

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
        shutil.rmtree(self.folder)


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
