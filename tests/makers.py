"""Small samples whose numbers say where they come from, and Buffers of them."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tmrl.integrity import nest_crcs, transition_crcs
from tmrl.networking import Buffer
from tmrl.networking.parcel import Encoder
from tmrl.packing import Packer
from tmrl.schema import Nest, Schema
from tmrl.transition import Sample, Stamp


def buffer_of(samples: Iterable[Any]) -> Buffer:
    """A Buffer of these samples."""
    buffer = Buffer()
    buffer.memory = list(samples)
    return buffer


def parcel_of(buffer: Buffer, *args: Any, **kwargs: Any) -> bytes:
    """A parcel of a Buffer; the rest are arguments of `Encoder`."""
    return b"".join(Encoder(*args, **kwargs).encode(buffer))


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


def of_policy(version: int, samples: Iterable[Sample]) -> list[Sample]:
    """The samples as they are stamped while this policy acts."""
    return [Sample(sample, sample.stamp._replace(policy_version=version)) for sample in samples]


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


ACT = np.array([0.25, -0.5], np.float32)


def packer_of(obs: Any, act: Any = ACT, finite: Any = ("rew", "act"), **info: Any) -> Packer:
    """A packer whose schema comes from these examples; the rest are entries of `info` to keep."""
    nests_of_info = {key: Nest.infer(f"info/{key}", value) for key, value in info.items()}
    return Packer(Schema(Nest.infer("obs", obs), Nest.infer("act", act), nests_of_info), finite)


def step(obs: Any, act: Any = ACT, rew: Any = 0.5, **changes: Any) -> tuple[Any, ...]:
    """A step without a stamp; what is not given is of no interest."""
    parts = {"terminated": False, "truncated": False, "info": {}} | changes
    return act, obs, rew, parts["terminated"], parts["truncated"], parts["info"]


def robot_sample(sample: Any, episode_step: int = 1) -> Sample:
    """The sample, stamped by the worker `robot-7`."""
    return Sample(sample, Stamp("robot-7", 0, 5, 0, episode_step))
