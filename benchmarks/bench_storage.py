"""A memory on the disk beside one in RAM, and saving beside pickling and TorchRL's `dumps`."""

import pickle
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from timing import interleaved
from workloads import Workload, samples

from tmrl.memory import ReplayMemory
from tmrl.networking import Buffer

BATCH_SIZE = 256
ROUNDS = 40
PICKLING, TORCHRL = "pickle a list of tuples", "TorchRL, dumps"


def measure(workload: Workload, rounds: int) -> dict[str, float]:
    """Seconds to append a sample of an episode and to draw a batch, in RAM and in a folder; both full."""
    folder = Path(tempfile.mkdtemp(prefix="bench", dir="."))
    try:
        with ReplayMemory(
            memory_size=workload.capacity, batch_size=BATCH_SIZE, seed=0, storage_path=folder
        ) as stored:
            in_ram = ReplayMemory(memory_size=workload.capacity, batch_size=BATCH_SIZE, seed=0)
            memories = {"RAM": in_ram, "folder": stored}
            buffers = _buffers(workload)
            for _ in range(workload.episodes_to_fill):
                buffer = next(buffers)
                for memory in memories.values():
                    memory.append(buffer)
            appending: dict[str, list[float]] = {name: [] for name in memories}
            order = list(memories)
            for _ in range(ROUNDS):
                buffer = next(buffers)
                for name in order:
                    start = perf_counter()
                    memories[name].append(buffer)
                    appending[name].append((perf_counter() - start) / len(buffer))
                order.reverse()
            sampling = interleaved({name: memory.sample for name, memory in memories.items()}, rounds)
            return {
                **{f"append, {name}": median(seconds) for name, seconds in appending.items()},
                **{f"sample, {name}": seconds for name, seconds in sampling.items()},
            }
    finally:
        shutil.rmtree(folder)


def _buffers(workload: Workload) -> Iterator[Buffer]:
    """Buffers of one episode; the arrays of four come again and again."""
    episodes = [samples(workload.episode(number)) for number in range(4)]
    for number in count():
        buffer = Buffer()
        buffer.memory = episodes[number % 4]
        yield buffer


def measure_saving(workload: Workload) -> dict[str, float]:
    """Seconds to save a full memory, again after 1 % of new rows, to load it; and what others take."""
    folder = Path(tempfile.mkdtemp(prefix="bench", dir="."))
    try:
        memory = ReplayMemory(memory_size=workload.capacity, batch_size=BATCH_SIZE, seed=0)
        buffers = _buffers(workload)
        for _ in range(workload.episodes_to_fill):
            memory.append(next(buffers))
        saved = {"save": _seconds(lambda: memory.save(folder / "ours"))}
        again: list[float] = []
        for _ in range(9):
            for _ in range(max(1, workload.capacity // 100 // workload.episode_length)):
                memory.append(next(buffers))
            again.append(_seconds(lambda: memory.save(folder / "ours")))
        saved["save again, 1 % new"] = median(again)
        saved["load"] = _seconds(lambda: ReplayMemory.load(folder / "ours"))
        saved[PICKLING] = _pickling(workload, folder / "list.pkl")
        saved[TORCHRL] = _torchrl(workload, folder / "torchrl")
        return saved
    finally:
        shutil.rmtree(folder)


def _seconds(call: Any) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def _pickling(workload: Workload, path: Path) -> float:
    transitions = [
        sample for number in range(workload.episodes_to_fill) for sample in samples(workload.episode(number))
    ][: workload.capacity]

    def dump() -> None:
        with path.open("wb") as stream:
            pickle.dump(transitions, stream, protocol=5)

    return _seconds(dump)


def _torchrl(workload: Workload, path: Path) -> float:
    from contenders import TorchRL

    peer = TorchRL(workload)
    for number in range(workload.episodes_to_fill):
        peer.append(workload.episode(number))
    return _seconds(lambda: peer.buffer.dumps(path))
