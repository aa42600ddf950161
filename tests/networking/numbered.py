"""Workers whose samples are their own numbers, so that a test sees what arrived, and what did not."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tmrl.buffer import Buffer
from tmrl.networking.delivery import Outbox, WhenFull
from tmrl.networking.record_log import RamLog
from tmrl.transition import Sample, Stamp

EPISODE = 7
"""Steps of an episode, its reset included."""


def numbered(worker: str, first: int, n_samples: int, epoch: int = 1) -> Buffer:
    """Samples `first, first + 1, ...` of a worker, each with its number as observation."""
    buffer = Buffer()
    for step in range(first, first + n_samples):
        episode, place = divmod(step, EPISODE)
        act = None if place == 0 else np.float32([step])
        values = (act, np.full(3, step, np.float32), float(step), place == EPISODE - 1, False, {})
        buffer.append_sample(Sample(values, Stamp(worker, epoch, step, episode, place)))
    return buffer


def steps_of(buffer: Buffer) -> dict[str, list[int]]:
    """The numbers that arrived, by worker, in their order."""
    steps: dict[str, list[int]] = {}
    for sample in buffer.memory:
        assert sample[1][0] == sample.stamp.step
        steps.setdefault(sample.stamp.worker, []).append(sample.stamp.step)
    return steps


def ram_outbox(name: str, max_bytes: int = 1 << 24, when_full: WhenFull = "block", **options: Any) -> Outbox:
    return Outbox(name, RamLog(max_bytes), when_full=when_full, **options)


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Waits for a condition, and fails if it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
