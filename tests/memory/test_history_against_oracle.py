"""Observations that are rebuilt from compressed rows, compared with whole ones in a list, bit by bit."""

import tempfile
from typing import Any

import hypothesis.strategies as st
import optree
import pytest
from hypothesis.stateful import initialize, invariant, rule

from histories import HistoryWorker, Shape, Stream, shapes
from machines import ENDINGS, FATES, WORKERS, MemoryMachine, StoredMachine, run
from memory.test_windows import n_step, one_step, sequence
from nests import is_identical
from tmrl.memory import FrameStack, NStep, ReplayMemory, Sequence, Transition
from tmrl.memory.windows import Window
from tmrl.networking import Buffer

WINDOWS = st.one_of(
    st.just(Transition()),
    st.just(Transition()),
    st.builds(FrameStack, st.integers(1, 4)),
    st.builds(NStep, st.integers(1, 5), st.sampled_from([0.5, 1.0]), st.none(), st.booleans()),
    st.builds(
        NStep, st.integers(1, 3), st.just(0.9), st.builds(FrameStack, st.integers(1, 3)), st.booleans()
    ),
    st.builds(lambda n, stride: Sequence(n, 0, stride), st.integers(1, 6), st.integers(1, 3)),
)
STAMPED_FATES = FATES.filter(lambda fate: fate != "unstamp")


class HistoryMachine(MemoryMachine):
    """The memory is given what workers send, the oracle what they saw."""

    @initialize(
        shape=shapes,
        memory_size=st.integers(1, 50),
        contiguous=st.booleans(),
        window=WINDOWS,
        crc_debug=st.booleans(),
    )
    def start(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, shape: Shape, memory_size: int, contiguous: bool, window: Window, crc_debug: bool
    ) -> None:
        self.window, self.shape, self.crc_debug = window, shape, crc_debug
        self.workers = {name: HistoryWorker(name, Stream(shape, i)) for i, name in enumerate(WORKERS)}
        self.late: list[Any] = []
        self.oracle = self.make_oracle(memory_size)
        self.memory = self.make_memory(memory_size=memory_size, contiguous=contiguous)
        self.append([self.workers["ann"].produce(""), self.workers["ann"].produce("")])

    def make_memory(self, **kwargs: Any) -> ReplayMemory:
        return super().make_memory(
            window=self.window, history=self.shape.history, crc_debug=self.crc_debug, **kwargs
        )

    def numbers(self) -> list[int]:
        behind = max([self.shape.n_actions, 1, *(plan.rule.depth for plan in _plans(self.shape))]) - 1
        return self.oracle.anchors(self.window.layout.behind + behind, self.window.stride, self.window.waits)

    def append(self, samples: list[Any], continues: bool = False) -> None:
        buffer = Buffer()
        buffer.memory = [sample.compressed for sample in samples]
        self.memory.append(buffer)
        self.oracle.append(samples)

    def append_plain(self) -> None:
        """A worker that compresses stamps what it sends."""

    @rule(plan=st.lists(st.tuples(st.sampled_from(WORKERS), ENDINGS, STAMPED_FATES), min_size=1, max_size=30))
    def append_stamped(self, plan: list[tuple[str, str, str]]) -> None:
        super().append_stamped(plan)

    @rule()
    def save_and_load(self) -> None:
        if self.memory.storage_path is None:
            with tempfile.TemporaryDirectory() as folder:
                self.memory.save(folder)
                self.memory = ReplayMemory.load(folder)

    @invariant()
    def every_transition_is_the_same(self) -> None:
        if not hasattr(self, "memory"):
            return
        numbers = self.numbers()
        makes = {NStep: n_step, Sequence: sequence}.get(type(self.window), one_step)
        expected = [makes(self.oracle, self.window, number) for number in numbers]
        assert len(self.memory) == len(expected)
        if not expected:
            return
        batch = self.memory.take(range(len(expected)))
        for i, (six, beside) in enumerate(expected):
            found = optree.tree_map(lambda tensor, i=i: tensor[i].numpy(), tuple(batch))
            if isinstance(self.window, Sequence):
                # Behind the last step is padding, which only has to be there.
                n = len([None, *self.oracle.ahead(numbers[i], self.window.length - 1)])
                found = optree.tree_map(lambda leaf, n=n: leaf[:n], found)
                assert self.is_same(optree.tree_map(lambda leaf, n=n: leaf[:n], six), found)
            else:
                assert self.is_same(six, found)
            for name, value in beside.items():
                assert is_identical(value, getattr(batch, name)[i].numpy())
        if not isinstance(self.window, Sequence):
            one = list(self.memory.get_transition(-1)[:6])
            if type(self.window) is Transition:
                assert type(one[4]) is type(one[5]) is bool
                one[4:] = expected[-1][0][4:]
            assert self.is_same(expected[-1][0], tuple(one))
            assert self.memory[-1] is not None


class StoredHistoryMachine(HistoryMachine, StoredMachine):
    """The same with a memory that lives in a folder and is opened again and again."""


def _plans(shape: Shape) -> list[Any]:
    return optree.tree_leaves(shape.parts)


@pytest.mark.timeout(400)
def test_rebuilt_observations_agree_with_whole_ones() -> None:
    """B60: every combination of rules, windows, interleaving, gaps, eviction and loads."""
    run(max_examples=120, steps=30, machine=HistoryMachine)


@pytest.mark.timeout(400)
def test_rebuilt_observations_of_a_memory_in_a_folder_agree_with_whole_ones() -> None:
    run(max_examples=60, steps=20, machine=StoredHistoryMachine)


@pytest.mark.stress
@pytest.mark.timeout(7200)
def test_rebuilt_observations_agree_with_whole_ones_over_100_000_operations() -> None:
    run(max_examples=2_000, steps=50, machine=HistoryMachine)
