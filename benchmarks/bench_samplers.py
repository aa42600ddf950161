"""Samplers: drawing by priority beside the peers, and what a batch costs in a small and in a large memory."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from contenders import Cpprb, Tianshou, Tmrl
from timing import interleaved
from workloads import Leaf, Workload, samples

from tmrl.memory import EmphasizeRecent, Epoch, Mixture, Prioritized, Recent, ReplayMemory, Sampler, Uniform
from tmrl.networking import Buffer

BATCH_SIZE = 256
ALPHA, BETA = 0.6, 0.4
SMALL, LARGE = 10_000, 10_000_000

SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "Uniform": Uniform,
    "Uniform, without replacement": lambda: Uniform(replace=False),
    "Prioritized, with its update": Prioritized,
    "Recent": lambda: Recent(half_life=2_000),
    "EmphasizeRecent": EmphasizeRecent,
    "Epoch": Epoch,
    "Mixture of two": lambda: Mixture({"demo": 0.5, "online": 0.5}),
}


class OurPriorities(Tmrl):
    def __init__(self, workload: Workload) -> None:
        self.memory = ReplayMemory(memory_size=workload.capacity, seed=0, sampler=Prioritized(ALPHA, BETA))

    def sampler(self, batch_size: int) -> Callable[[], Any]:
        self.memory.batch_size = batch_size

        def sample() -> Any:
            self._drawn = self.memory.sample()
            return self._drawn, self._drawn.weights

        return sample

    def update(self, errors: Any) -> None:
        self.memory.update_priorities(self._drawn.ids, errors)


class _Noting:
    """A peer's buffer that keeps what it drew last."""

    def __init__(self, buffer: Any, **options: Any) -> None:
        self.buffer = buffer
        self._options = options

    def sample(self, batch_size: int) -> Any:
        self.drawn = self.buffer.sample(batch_size, **self._options)
        return self.drawn


class CpprbPriorities(Cpprb):
    def __init__(self, workload: Workload) -> None:
        super().__init__(workload, prioritized=ALPHA)

    def sampler(self, batch_size: int) -> Callable[[], Any]:
        self._buffer = _Noting(self._buffer, beta=BETA)
        sample = super().sampler(batch_size)
        return lambda: (sample(), torch.from_numpy(self._buffer.drawn["weights"]))

    def update(self, errors: Any) -> None:
        self._buffer.buffer.update_priorities(self._buffer.drawn["indexes"], np.abs(errors))


class TianshouPriorities(Tianshou):
    def __init__(self, workload: Workload) -> None:
        super().__init__(workload, prioritized=(ALPHA, BETA))

    def sampler(self, batch_size: int) -> Callable[[], Any]:
        # The columns were put in place as a whole, without the priorities that adding would have given.
        self._buffer.init_weight(np.arange(len(self._buffer)))
        self._buffer = _Noting(self._buffer)
        sample = super().sampler(batch_size)
        return lambda: (sample(), torch.from_numpy(self._buffer.drawn[0].weight))

    def update(self, errors: Any) -> None:
        self._buffer.buffer.update_weight(self._buffer.drawn[1], errors)


def measure(workload: Workload, rounds: int) -> dict[str, float]:
    """Seconds to draw a batch of 256 with its weights and to update its priorities, all memories full."""
    learners: list[Any] = [OurPriorities(workload), CpprbPriorities(workload), TianshouPriorities(workload)]
    for number in range(workload.episodes_to_fill):
        episode = workload.episode(number)
        for learner in learners:
            learner.append(episode)
    return interleaved({learner.name: _learning(learner) for learner in learners}, rounds)


def _learning(learner: Any) -> Callable[[], Any]:
    sample, errors = learner.sampler(BATCH_SIZE), _errors()
    # Priorities of a training that has gone on for a while.
    for _ in range(2_000):
        sample()
        learner.update(next(errors))

    def step() -> Any:
        drawn = sample()
        learner.update(next(errors))
        return drawn

    return step


def _errors() -> Iterator[Any]:
    many = np.random.default_rng(0).standard_normal((64, BATCH_SIZE), np.float32)
    while True:
        yield from many


def measure_latency(large: int, rounds: int) -> dict[str, dict[str, float]]:
    """Sampler to number of transitions to seconds per batch of 256, of rows of a few bytes; one at a time."""
    workload = Workload("small rows", "a float", (Leaf("float32", (1,)),), Leaf("float32", (1,)), SMALL)
    episode = samples(workload.with_capacity(4_000).episode(0))
    return {
        name: interleaved({f"{n:,}": _drawing(make(), n, episode) for n in (SMALL, large)}, rounds)
        for name, make in SAMPLERS.items()
    }


def _drawing(sampler: Sampler, n: int, episode: Any) -> Callable[[], Any]:
    memory = ReplayMemory(memory_size=n, batch_size=BATCH_SIZE, seed=0, sampler=sampler)
    buffer = Buffer()
    buffer.memory = episode
    for number in range(n // (len(episode) - 1) + 1):
        memory.append(buffer, source=("demo", "online")[number % 2])
    if not sampler.has_priorities:
        return memory.sample
    errors = _errors()

    def step() -> Any:
        batch = memory.sample()
        memory.update_priorities(batch.ids, next(errors))
        return batch

    return step
