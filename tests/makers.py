"""Small samples whose numbers say where they come from, and Buffers of them."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tmrl.integrity import nest_crcs, transition_crcs
from tmrl.networking import Buffer
from tmrl.transition import Sample, Stamp


def buffer_of(samples: Iterable[Any]) -> Buffer:
    """A Buffer of these samples."""
    buffer = Buffer()
    buffer.memory = list(samples)
    return buffer


def plain_episode(length: int, first: int = 0, ending: str = "terminated") -> list[tuple[Any, ...]]:
    """An episode of `length` steps without stamps; observation, action and reward hold its number."""
    samples: list[tuple[Any, ...]] = []
    for i in range(length + 1):
        is_last = i == length
        flags = (is_last and ending == "terminated", is_last and ending == "truncated")
        number = np.array([first + i], np.float32)
        samples.append((None if i == 0 else -number, number, float(first + i), *flags, {}))
    return samples


def stamped(
    samples: list[tuple[Any, ...]], worker: str = "ann", first_step: int = 0, episode: int = 0, epoch: int = 0
) -> list[Sample]:
    """The samples of one episode, stamped."""
    return [
        Sample(sample, Stamp(worker, epoch, first_step + i, episode, i)) for i, sample in enumerate(samples)
    ]


def with_crc(samples: list[Sample]) -> list[Sample]:
    """The samples of one episode with the checksums that a worker in CRC mode takes."""
    checked: list[Sample] = []
    for i, sample in enumerate(samples):
        act, obs, rew, terminated, truncated, info = sample
        fields = nest_crcs("obs", obs)
        if i:
            fields = transition_crcs(samples[i - 1][1], act, obs, rew, terminated, truncated)
        stamp = sample.stamp
        crc = {"worker": stamp.worker, "episode": stamp.episode, "step": stamp.step, "fields": fields}
        checked.append(Sample((act, obs, rew, terminated, truncated, {**info, "crc": crc}), stamp))
    return checked
