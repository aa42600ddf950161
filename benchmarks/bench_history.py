"""Histories: what the compressor costs a worker's step, and rebuilding a batch, in CRC mode and not.

Observations are those of a real-time game: a speed, four stacked frames, and a buffer of two actions. With a
history one frame a step is kept, without one everything.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from timing import interleaved

from tmrl.compressor import Compressor
from tmrl.memory import ActionBuffer, History, Latest, ReplayMemory, Stacked
from tmrl.networking import Buffer
from tmrl.stamping import add_checksums
from tmrl.transition import Sample, Stamp

HISTORY = History((Latest(), Stacked(4), ActionBuffer(2)))
FRAME, EPISODE_LENGTH, CAPACITY, BATCH_SIZE = (64, 64), 200, 10_000, 256
WORKER_STEP, APPEND, DRAW, ROW_BYTES = "worker, a step", "append, a step", "draw 256", "bytes of a row"

Values = tuple[Any, ...]


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """How observations are kept to what is done to seconds, and to bytes of a row."""
    kinds = {
        f"{what}{', crc_debug' if crc_debug else ''}": (history, crc_debug)
        for crc_debug in (False, True)
        for what, history in (("whole", None), ("history", HISTORY))
    }
    episode = list(_episode())
    sent = {name: [*_sent(episode, *kind)] for name, kind in kinds.items()}
    memories = {name: _memory(sent[name], *kind) for name, kind in kinds.items()}
    worker = interleaved({name: _consumed(episode, *kind) for name, kind in kinds.items()}, rounds)
    drawing = interleaved({name: memory.sample for name, memory in memories.items()}, rounds)
    appending = interleaved(
        {name: _appending(memory, sent[name]) for name, memory in memories.items()}, rounds
    )
    return {
        name: {
            WORKER_STEP: worker[name] / len(episode),
            APPEND: appending[name] / len(episode),
            DRAW: drawing[name],
            ROW_BYTES: memories[name].stats().bytes_full / (CAPACITY + 1),
        }
        for name in kinds
    }


def _episode() -> Iterator[Values]:
    """`(prev_obs, act, obs, rew, terminated, truncated)` of each step, the arrays as an environment's."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, FRAME, np.uint8)] * 4
    acts = [np.zeros(3, np.float32)] * 2
    before: Any = None
    for step in range(EPISODE_LENGTH + 1):
        if step:
            frames = [*frames[1:], rng.integers(0, 256, FRAME, np.uint8)]
            acts = [acts[1], rng.standard_normal(3, np.float32)]
        speed = rng.standard_normal(1, np.float32)
        obs = (speed, np.stack(frames), *(act.copy() for act in acts))
        yield before, acts[-1], obs, float(step), step == EPISODE_LENGTH, False
        before = obs


def _sent(
    episode: list[Values], history: History | None, crc_debug: bool, number: int = 0
) -> Iterator[Sample]:
    """What a worker makes of an episode, beyond its own copies."""
    compressor = None if history is None else Compressor(history)
    for step, given in enumerate(episode):
        stamp = Stamp("worker", 0, number * len(episode) + step, number, step)
        values, info = given[1:], {}
        if crc_debug:
            seen = given if compressor is None else compressor.seen(*given)
            add_checksums(info, stamp, seen[0], seen[1:], crc_samples=False)
        if compressor is not None:
            values = compressor(values, stamp)
        yield Sample((*values, info), stamp)


def _consumed(episode: list[Values], history: History | None, crc_debug: bool) -> Callable[[], Any]:
    return lambda: [*_sent(episode, history, crc_debug)]


def _memory(sent: list[Sample], history: History | None, crc_debug: bool) -> ReplayMemory:
    memory = ReplayMemory(
        memory_size=CAPACITY, batch_size=BATCH_SIZE, seed=0, history=history, crc_debug=crc_debug
    )
    append = _appending(memory, sent)
    for _ in range(CAPACITY // EPISODE_LENGTH + 2):
        append()
    return memory


def _appending(memory: ReplayMemory, sent: list[Sample]) -> Callable[[], None]:
    """Appends the episode again, as the one that follows in the stream of a worker of its own."""
    numbers = iter(range(1_000_000_000))

    def append() -> None:
        first = next(numbers) * len(sent)
        buffer = Buffer()
        buffer.memory = [
            Sample(tuple(sample), Stamp("worker", first, step, 0, step)) for step, sample in enumerate(sent)
        ]
        memory.append(buffer)

    return append
