"""Appending to our memory: many samples at once and one by one, to an empty and to a full memory."""

from collections.abc import Callable, Iterator
from itertools import chain, count
from statistics import median
from time import perf_counter
from typing import Any

from contenders import Tmrl
from workloads import Workload, samples

from tmrl.memory import ReplayMemory
from tmrl.networking import Buffer
from tmrl.transition import Sample, Stamp

CHUNK = 1_000


def measure(workload: Workload, rounds: int) -> dict[str, dict[str, float]]:
    """Kind of Buffer to "empty" and "full" to median seconds per sample."""
    full = Tmrl(workload)
    for number in range(workload.episodes_to_fill):
        full.append(workload.episode(number))
    kinds: dict[str, tuple[Callable[[str], Iterator[Buffer]], bool]] = {
        "1,000 sample tuples": (lambda _: _chunks(workload), False),
        "1,000 stamped samples of a worker": (lambda worker: _stamped(workload, worker, CHUNK), False),
        "one sample tuple, continued": (lambda _: _singles(workload), True),
        "one stamped sample of a worker": (lambda worker: _stamped(workload, worker, 1), False),
    }
    return {
        kind: _empty_and_full(workload, full.memory, make, rounds, continues)
        for kind, (make, continues) in kinds.items()
    }


def _empty_and_full(
    workload: Workload,
    full: ReplayMemory,
    make: Callable[[str], Iterator[Buffer]],
    rounds: int,
    continues: bool,
) -> dict[str, float]:
    """Appends in turns of 1,000 samples to both memories, while the empty one has room for all of them."""
    empty = Tmrl(workload).memory
    rounds = min(rounds, workload.capacity // CHUNK // 2)
    buffers = {"empty": make("worker-1"), "full": make("worker-2")}
    durations: dict[str, list[float]] = {"empty": [], "full": []}
    for _ in range(rounds):
        for name, memory in (("empty", empty), ("full", full)):
            durations[name].append(_append(memory, buffers[name], continues))
    return {name: median(values[1:]) for name, values in durations.items()}


def _append(memory: ReplayMemory, buffers: Iterator[Buffer], continues: bool) -> float:
    turn: list[Buffer] = []
    while sum(map(len, turn)) < CHUNK:
        turn.append(next(buffers))
    start = perf_counter()
    for buffer in turn:
        memory.append(buffer, continues=continues)
    return (perf_counter() - start) / sum(map(len, turn))


def _stream(workload: Workload) -> Iterator[tuple[Any, ...]]:
    """Sample tuples of one episode after the other; the arrays of four episodes come again and again."""
    episodes = [samples(workload.episode(number)) for number in range(4)]
    return chain.from_iterable(episodes[number % 4] for number in count())


def _chunks(workload: Workload) -> Iterator[Buffer]:
    stream = _stream(workload)
    while True:
        yield _buffer([next(stream) for _ in range(CHUNK)])


def _singles(workload: Workload) -> Iterator[Buffer]:
    return (_buffer([sample]) for sample in _stream(workload))


def _stamped(workload: Workload, worker: str, size: int) -> Iterator[Buffer]:
    length = workload.episode_length + 1
    stream = (
        Sample(sample, Stamp(worker, 0, step, step // length, step % length))
        for step, sample in enumerate(_stream(workload))
    )
    while True:
        yield _buffer([next(stream) for _ in range(size)])


def _buffer(memory: list[Any]) -> Buffer:
    buffer = Buffer()
    buffer.memory = memory
    return buffer
