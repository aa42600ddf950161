"""Sequences, n-step returns and stacks of frames, beside what peers have of these; batches are torch tensors.

cpprb makes n-step returns and stacks when it stores, the others when they draw. Its stacks come as
`(height, width, k)`; that is how it stores them.
"""

from collections.abc import Callable, Iterator
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from timing import interleaved
from workloads import Episode, Workload, samples

from tmrl.memory import FrameStack, NStep, ReplayMemory, Sequence
from tmrl.networking import Buffer
from tmrl.transition import Sample, Stamp

OURS, INTERLEAVED = "tmrl", "tmrl, from 8 streams in turns"
LENGTH, SEQUENCES, BATCH_SIZE = 64, 32, 256
STEPS, DISCOUNT, FRAMES = 3, 0.99, 4

Draw = Callable[[], Any]


def measure(vectors: Workload, frames: Workload, rounds: int) -> dict[str, dict[str, float]]:
    """What is drawn to contender to seconds per batch."""
    window = {"sequences": Sequence(LENGTH), "n-step": NStep(STEPS, DISCOUNT)}
    contenders: dict[str, dict[str, Draw]] = {
        f"{SEQUENCES} sequences of {LENGTH}, W1": {
            OURS: _ours(vectors, window["sequences"], SEQUENCES),
            INTERLEAVED: _ours(vectors, window["sequences"], SEQUENCES, streams=8),
            "TorchRL, SliceSampler": _torchrl(vectors),
        },
        f"{BATCH_SIZE} returns of {STEPS} steps, W1": {
            OURS: _ours(vectors, window["n-step"], BATCH_SIZE),
            INTERLEAVED: _ours(vectors, window["n-step"], BATCH_SIZE, streams=8),
            "Stable-Baselines3, NStepReplayBuffer": _stable_baselines3(vectors),
            "cpprb, Nstep": _cpprb_n_step(vectors),
        },
        f"{BATCH_SIZE} stacks of {FRAMES} frames of 84x84": {
            OURS: _ours(frames, FrameStack(FRAMES), BATCH_SIZE),
            "cpprb, stack_compress": _cpprb_stacks(frames),
        },
    }
    return {what: interleaved(draws, rounds, budget_s=25) for what, draws in contenders.items()}


def one_frame(workload: Workload) -> Workload:
    """The workload of stacked frames with one frame an observation."""
    from dataclasses import replace

    (leaf,) = workload.obs
    return replace(workload, obs=(leaf._replace(shape=leaf.shape[1:]),))


def _episodes(workload: Workload) -> Iterator[Episode]:
    return (workload.episode(number) for number in range(workload.episodes_to_fill))


def _ours(workload: Workload, window: Any, batch_size: int, streams: int = 1) -> Draw:
    memory = ReplayMemory(memory_size=workload.capacity, batch_size=batch_size, seed=0, window=window)
    for samples_of in _chunks(workload, streams):
        buffer = Buffer()
        buffer.memory = samples_of
        memory.append(buffer)
    return memory.sample


def _chunks(workload: Workload, streams: int) -> Iterator[list[Any]]:
    """Whole episodes of one stream, or twenty steps of each of several in turns."""
    if streams == 1:
        yield from map(samples, _episodes(workload))
        return
    sources = [_stream(workload, f"worker-{i}") for i in range(streams)]
    for _ in range(workload.capacity // (20 * streams) + 1):
        for source in sources:
            yield [next(source) for _ in range(20)]


def _stream(workload: Workload, worker: str) -> Iterator[Sample]:
    four = [samples(workload.episode(number)) for number in range(4)]
    length = workload.episode_length + 1
    for step, values in enumerate(chain.from_iterable(four[number % 4] for number in count())):
        yield Sample(values, Stamp(worker, 0, step, step // length, step % length))


def _torchrl(workload: Workload) -> Draw:
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

    sampler = SliceSampler(slice_len=LENGTH, traj_key="episode", cache_values=True)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(workload.capacity), sampler=sampler, batch_size=LENGTH * SEQUENCES
    )
    for number, episode in enumerate(_episodes(workload)):
        parts = {
            "obs": episode.obs[0][:-1],
            "next_obs": episode.obs[0][1:],
            **{name: getattr(episode, name) for name in ("act", "rew", "terminated", "truncated")},
            "episode": np.full(len(episode), number),
        }
        tensors = {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()}
        buffer.extend(TensorDict(tensors, [len(episode)]))
    return buffer.sample


def _stable_baselines3(workload: Workload) -> Draw:
    from contenders import _box
    from stable_baselines3.common.buffers import NStepReplayBuffer

    buffer = NStepReplayBuffer(
        workload.capacity,
        _box(workload.obs[0]),
        _box(workload.act),
        device="cpu",
        n_steps=STEPS,
        gamma=DISCOUNT,
    )
    for episode in _episodes(workload):
        observations = episode.obs[0]
        dones = episode.terminated | episode.truncated
        infos = [[{"TimeLimit.truncated": truncated}] for truncated in episode.truncated.tolist()]
        for step in zip(observations, observations[1:], episode.act, episode.rew, dones, infos, strict=False):
            buffer.add(*step)
    return lambda: buffer.sample(BATCH_SIZE)


def _cpprb_n_step(workload: Workload) -> Draw:
    from cpprb import ReplayBuffer

    (obs,), act = workload.obs, workload.act
    columns = {
        "obs": {"shape": obs.shape},
        "next_obs": {"shape": obs.shape},
        "act": {"shape": act.shape},
        "rew": {},
        "done": {},
    }
    n_step = {"size": STEPS, "gamma": DISCOUNT, "rew": "rew", "next": "next_obs"}
    buffer = ReplayBuffer(workload.capacity, columns, Nstep=n_step)
    for episode in _episodes(workload):
        steps = zip(
            episode.obs[0], episode.obs[0][1:], episode.act, episode.rew, episode.terminated, strict=False
        )
        for before, after, action, rew, done in steps:
            buffer.add(obs=before, next_obs=after, act=action, rew=rew, done=done)
        buffer.on_episode_end()
    return lambda: {name: torch.from_numpy(part) for name, part in buffer.sample(BATCH_SIZE).items()}


def _cpprb_stacks(workload: Workload) -> Draw:
    from cpprb import ReplayBuffer

    height, width = workload.obs[0].shape
    columns = {
        "obs": {"shape": (height, width, FRAMES), "dtype": np.uint8},
        "act": {"shape": workload.act.shape},
        "rew": {},
        "done": {},
    }
    buffer = ReplayBuffer(workload.capacity, columns, next_of="obs", stack_compress="obs")
    for episode in _episodes(workload):
        frames = episode.obs[0]
        padded = np.concatenate([np.repeat(frames[:1], FRAMES - 1, axis=0), frames])
        stacks = np.moveaxis(np.lib.stride_tricks.sliding_window_view(padded, FRAMES, axis=0), -1, -1)
        steps = zip(stacks, stacks[1:], episode.act, episode.rew, episode.terminated, strict=False)
        for before, after, action, rew, done in steps:
            buffer.add(obs=before, next_obs=after, act=action, rew=rew, done=done)
        buffer.on_episode_end()
    return lambda: {name: torch.from_numpy(part) for name, part in buffer.sample(BATCH_SIZE).items()}
