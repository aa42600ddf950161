"""Two memories that were given the same: they hold the same, and go on alike."""

from collections.abc import Callable
from typing import Any

from nests import is_identical
from tmrl.memory import ReplayMemory


def contents(memory: ReplayMemory) -> list[Any]:
    return [memory.get_transition(i) for i in range(len(memory))]


def assert_goes_on_alike(first: ReplayMemory, second: ReplayMemory) -> None:
    """Same transitions, same counts, and the same batches from now on."""
    assert is_identical(contents(first), contents(second))
    counts, others = first.stats(), second.stats()
    assert list(counts.workers.items()) == list(others.workers.items())
    assert counts.sources == others.sources
    for _ in range(20 if len(first) else 0):
        ours, theirs = first.sample(), second.sample()
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert is_identical(tuple(ours), tuple(theirs), as_array=lambda tensor: tensor.numpy())
        for memory, batch in ((first, ours), (second, theirs)) if first.sampler.has_priorities else ():
            memory.update_priorities(batch.ids[4:], batch.rew[4:])


def assert_reopens_as_it_was(
    open_memory: Callable[..., ReplayMemory],
    twin: ReplayMemory,
    append: Callable[[ReplayMemory, int, int], None],
    n: int,
) -> None:
    """A memory in a folder, opened again and again, goes on as a twin in RAM that never stopped.

    Args:
        open_memory: Opens the folder; it is given another seed than the twin's when there are rows.
        twin: Empty.
        append: Given a memory, appends the samples from one number to another.
        n: Samples before it is opened again.
    """
    append(twin, 0, n)
    with open_memory() as memory:
        append(memory, 0, n)
        assert_goes_on_alike(twin, memory)
    for _ in range(2):
        with open_memory(seed=99) as memory:
            assert_goes_on_alike(twin, memory)
            append(memory, n, n + 25)
            append(twin, n, n + 25)
            n += 25
            assert_goes_on_alike(twin, memory)
