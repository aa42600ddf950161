"""Batches that are drawn ahead are the same as without, whatever happens in between."""

import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from makers import buffer_of, plain_episode, stamped, with_crc
from tmrl.errors import EmptyMemoryError, IntegrityError
from tmrl.memory import NStep, ReplayMemory


def memory_of(prefetch: int, **kwargs: Any) -> ReplayMemory:
    memory = ReplayMemory(
        **{"batch_size": 8, "seed": 0, "memory_size": 60, "info_keys": ("x",), "prefetch": prefetch, **kwargs}
    )
    append(memory, 0)
    return memory


def append(memory: ReplayMemory, number: int) -> None:
    episode = stamped(plain_episode(9, 10 * number), f"w{number}")
    for i, sample in enumerate(episode):
        sample[5]["x"] = i
    memory.append(buffer_of(with_crc(episode) if memory.crc_debug else episode))


def wait_for_batches(memory: ReplayMemory, n: int) -> None:
    """Until the thread has drawn them; bounded."""
    assert memory._prefetcher is not None
    for _ in range(5000):
        if len(memory._prefetcher._ready) >= n:
            return
        time.sleep(0.001)
    raise AssertionError("no batches came")


def assert_same_batch(memories: list[ReplayMemory]) -> None:
    ours, theirs = (memory.sample() for memory in memories)
    assert ours.ids.tolist() == theirs.ids.tolist()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert memories[0].stats().draws == memories[1].stats().draws


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("crc_debug", [False, True])
def test_batches_are_the_same_with_it_and_without(depth: int, crc_debug: bool, tmp_path: Path) -> None:
    """B54: appends, late writes, resizes, other batch sizes, saves and direct draws, in a random order."""
    rng = random.Random(depth)
    memories = [memory_of(prefetch, crc_debug=crc_debug) for prefetch in (0, depth)]
    changes = {
        "append": append,
        "write": lambda memory, n: memory.write([n, n + 3], rew=[n, n]),
        "resize": lambda memory, n: setattr(memory, "memory_size", 30 + n % 40),
        "batch": lambda memory, n: setattr(memory, "batch_size", 4 + n % 5),
        "indices": lambda memory, _: memory.sample_indices(),
        "state": lambda memory, _: memory.load_state_dict(memory.state_dict()),
        "save": lambda memory, n: memory.save(tmp_path / str(id(memory))),
    }
    for n in range(1, 300):
        if rng.random() < 0.3:
            change = changes[rng.choice(sorted(changes))]
            for memory in memories:
                change(memory, n)
        if rng.random() < 0.1:
            wait_for_batches(memories[1], depth)
        assert_same_batch(memories)
    memories[1].close()


def test_a_transition_appended_just_before_can_be_in_the_batch() -> None:
    memory = memory_of(4, batch_size=256)
    memory.sample()
    wait_for_batches(memory, 4)
    append(memory, 5)
    assert memory.sample().ids.max() > 9
    memory.close()


def test_batches_do_wait() -> None:
    """B54: a depth that does nothing."""
    memory = memory_of(3)
    memory.sample()
    wait_for_batches(memory, 3)
    drawn_by: set[str] = set()
    draw = memory._prefetcher._draw  # type: ignore[union-attr]

    def noted() -> Any:
        drawn_by.add(threading.current_thread().name)
        return draw()

    memory._prefetcher._draw = noted  # type: ignore[union-attr]
    for _ in range(20):
        wait_for_batches(memory, 1)
        memory.sample()
    assert drawn_by == {"tmrl-prefetch"}
    memory.close()


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_asked_for() -> None:
    """B55: the consumer does not wait for ever."""
    memory = memory_of(2, crc_debug=True)
    memory.sample()
    wait_for_batches(memory, 2)
    store = memory._store
    assert store is not None
    with memory._lock:
        memory._state.before_change()
        store.ring.rows["obs"][:] += 1
    for _ in range(3):
        with pytest.raises(IntegrityError, match="not what the worker saw"):
            memory.sample()
    store.ring.rows["obs"][:] -= 1
    append(memory, 3)
    memory.sample()
    memory.close()


def test_an_empty_memory_says_so_and_goes_on_with_its_first_rows() -> None:
    memory = ReplayMemory(prefetch=2, seed=0, batch_size=4)
    for _ in range(3):
        with pytest.raises(EmptyMemoryError, match="cannot draw 4 transitions: the memory holds 0"):
            memory.sample()
    memory.append(buffer_of(plain_episode(3)))
    assert len(memory.sample().rew) == 4
    memory.close()


def test_close_ends_the_thread() -> None:
    memory = memory_of(2)
    memory.sample()
    assert "tmrl-prefetch" in {thread.name for thread in threading.enumerate()}
    memory.close()
    assert "tmrl-prefetch" not in {thread.name for thread in threading.enumerate()}


def test_a_window_s_batches_are_drawn_ahead_too() -> None:
    memories = [memory_of(prefetch, window=NStep(3, 0.9)) for prefetch in (0, 2)]
    for n in range(1, 20):
        assert_same_batch(memories)
        for memory in memories:
            append(memory, n)
    memories[1].close()


def test_batches_that_wait_are_not_written_to() -> None:
    """A block is used again only when no tensor holds it, nor a copy to the device reads it."""
    memory = memory_of(3)
    kept = [memory.sample() for _ in range(10)]
    copies = [[part.clone() for part in batch] for batch in kept]
    for _ in range(50):
        memory.sample()
    for batch, copy in zip(kept, copies, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(batch, copy, strict=True))
    memory.close()


def test_a_block_that_is_being_copied_is_not_idle() -> None:
    """The event of a copy to a GPU, of which there is none here."""
    memory = memory_of(0)
    memory.sample()
    assert memory._batches._hand_out is not None
    (block,) = memory._batches._hand_out.pool._blocks

    class Event:
        is_done = False

        def query(self) -> bool:
            return self.is_done

    assert block.is_idle
    block.copied = Event()
    assert not block.is_idle
    block.copied.is_done = True
    assert block.is_idle
    assert block.copied is None


def test_fewer_than_none_are_refused() -> None:
    with pytest.raises(ValueError, match="prefetch must be at least 0, got -1"):
        ReplayMemory(prefetch=-1)


def test_two_threads_may_draw() -> None:
    memory = memory_of(2, batch_size=4)
    drawn: list[Any] = []

    def draw() -> None:
        drawn.extend(memory.sample().ids for _ in range(200))

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(1, 20):
        append(memory, n)
    for thread in threads:
        thread.join(60)
    assert len(drawn) == 400
    assert memory.stats().draws == 1600
    assert np.concatenate(drawn).min() >= 0
    memory.close()
