"""What an anchor expands to, compared with plain loops over the oracle's rows, bit by bit."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import optree
import pytest
from hypothesis.stateful import initialize, invariant

from machines import MemoryMachine, StoredMachine, run
from nests import SampleMaker, is_identical, makers
from oracle import Oracle
from tmrl.memory import FrameStack, NStep, ReplayMemory, Sequence, Transition
from tmrl.memory.windows import Window

WINDOWS = st.one_of(
    st.builds(FrameStack, st.integers(1, 5)),
    st.builds(NStep, st.integers(1, 10), st.sampled_from([0.0, 0.5, 0.99, 1.0])),
    st.builds(
        NStep, st.integers(1, 4), st.just(0.9), st.builds(FrameStack, st.integers(1, 4)), st.booleans()
    ),
    st.builds(NStep, st.integers(1, 10), st.just(0.5), st.none(), st.just(True)),
    st.builds(
        lambda n, burn, stride: Sequence(n, min(burn, n - 1), stride), *map(st.integers, (1, 0, 1), (8, 3, 4))
    ),
)


def expected_windows(machine: Any) -> list[tuple[Any, dict[str, Any]]]:
    """The six parts of each window, and what comes beside, made by plain loops."""
    window = machine.window
    makes = {NStep: n_step, Sequence: sequence}.get(type(window), one_step)
    return [makes(machine.oracle, window, number) for number in machine.numbers()]


def observed(oracle: Oracle, window: Window, number: int) -> Any:
    """The observation of a row, stacked with those before it."""
    obs = oracle.rows[number].sample[1]
    if window.stack is None:
        return obs
    numbers = [*oracle.behind(number, window.stack.k - 1), number]
    return stacked([oracle.rows[i].sample[1] for i in numbers])


def stacked(nests: list[Any]) -> Any:
    return optree.tree_map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *nests)


def one_step(oracle: Oracle, window: Any, number: int) -> tuple[Any, dict[str, Any]]:
    act, _, rew, terminated, truncated, _ = oracle.rows[number].sample
    obs = [observed(oracle, window, i) for i in (oracle.rows[number].follows, number)]
    return (obs[0], act, np.float32(rew), obs[1], np.float32(terminated), np.float32(truncated)), {}


def n_step(oracle: Oracle, window: Any, number: int) -> tuple[Any, dict[str, Any]]:
    numbers = [number, *oracle.ahead(number, window.n - 1)]
    total = 0.0
    for i, step in enumerate(numbers):
        total += window.discount**i * float(np.float32(oracle.rows[step].sample[2]))
    act, (_, _, _, terminated, truncated, _) = oracle.rows[number].sample[0], oracle.rows[numbers[-1]].sample
    obs = [observed(oracle, window, i) for i in (oracle.rows[number].follows, numbers[-1])]
    flags = np.float32(terminated), np.float32(truncated)
    k = len(numbers)
    beside = {"n_steps": np.int64(k), "discounts": np.float32(window.discount**k)}
    return (obs[0], act, np.float32(total), obs[1], *flags), beside


def sequence(oracle: Oracle, window: Any, number: int) -> tuple[Any, dict[str, Any]]:
    numbers = [number, *oracle.ahead(number, window.length - 1)]
    n = len(numbers)
    rows = [oracle.rows[number].follows, *numbers, *[numbers[-1]] * (window.length - n)]
    samples = [oracle.rows[i].sample for i in rows]
    is_step = [i < n for i in range(window.length)]
    rew = [np.float32(s[2]) if real else np.float32(0) for s, real in zip(samples[1:], is_step, strict=True)]
    flags = [
        [np.float32(bool(s[part]) and real) for s, real in zip(samples[1:], is_step, strict=True)]
        for part in (3, 4)
    ]
    obs, acts = [s[1] for s in samples], [s[0] for s in samples[1:]]
    mask = [np.float32(real and i >= window.burn_in) for i, real in enumerate(is_step)]
    is_first = [oracle.rows[i].begins and real for i, real in zip(rows, is_step, strict=False)]
    six = stacked(obs[:-1]), stacked(acts), np.stack(rew), stacked(obs[1:]), *map(np.stack, flags)
    return six, {"mask": np.stack(mask), "is_first": np.stack(is_first)}


def info_ids(oracle: Oracle, window: Any, number: int) -> Any:
    """Ids of the rows that the info of a window is of."""
    if not isinstance(window, Sequence):
        return oracle.id_of(number)
    rows = [oracle.rows[number].follows, number, *oracle.ahead(number, window.length - 1)]
    return [*map(oracle.id_of, rows), *[-1] * (window.length + 1 - len(rows))]


def assert_windows_are_the_same(machine: Any) -> None:
    expected = expected_windows(machine)
    assert len(machine.memory) == len(expected)
    if not expected:
        return
    batch = machine.memory.take(range(len(expected)))
    numbers = machine.numbers()
    assert batch.ids.tolist() == [machine.oracle.id_of(number) for number in numbers]
    assert batch.info_ids.tolist() == [info_ids(machine.oracle, machine.window, number) for number in numbers]
    for i, (six, beside) in enumerate(expected):
        found = optree.tree_map(lambda tensor, i=i: tensor[i].numpy(), tuple(batch))
        assert machine.is_same(six, found)
        for name, value in beside.items():
            assert is_identical(value, getattr(batch, name)[i].numpy())
    one = list(machine.memory.get_transition(-1)[:6])
    if type(machine.window) is Transition:
        one[4:] = map(np.float32, one[4:])
    assert machine.is_same(expected[-1][0], tuple(one))


class WindowMachine(MemoryMachine):
    """Operations on a memory with some window, and on the oracle."""

    @initialize(make=makers(), memory_size=st.integers(1, 50), contiguous=st.booleans(), window=WINDOWS)
    def start(self, make: SampleMaker, memory_size: int, contiguous: bool, window: Window) -> None:
        self.window = window
        super().start(make, memory_size, contiguous)

    def make_memory(self, **kwargs: Any) -> ReplayMemory:
        return super().make_memory(window=self.window, **kwargs)

    def numbers(self) -> list[int]:
        return self.oracle.anchors(self.window.layout.behind, self.window.stride, self.window.waits)

    @invariant()
    def every_transition_is_the_same(self) -> None:
        if hasattr(self, "memory"):
            assert_windows_are_the_same(self)


class StoredWindowMachine(WindowMachine, StoredMachine):
    """The same with a memory that lives in a folder and is opened again and again."""

    def reopened_alike(self) -> None:
        assert_windows_are_the_same(self)


@pytest.mark.timeout(400)
def test_windows_agree_with_plain_loops_over_10_000_operations() -> None:
    run(max_examples=250, steps=40, machine=WindowMachine)


@pytest.mark.timeout(400)
def test_windows_of_a_memory_in_a_folder_agree_with_plain_loops() -> None:
    run(max_examples=60, steps=20, machine=StoredWindowMachine)


@pytest.mark.stress
@pytest.mark.timeout(7200)
def test_windows_agree_with_plain_loops_over_200_000_operations() -> None:
    run(max_examples=4_000, steps=50, machine=WindowMachine)
