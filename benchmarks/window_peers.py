"""What peers have of sequences, n-step returns and stacks of frames, each filled with the same episodes.

Each is used in the fastest way that its documentation offers. cpprb makes n-step returns and stacks when it
stores, the others when they draw. Flashbax draws in one compiled function, and its batches stay JAX arrays.
It knows no episodes: its sequences run on into the next one. TorchRL and Flashbax are not asked for the last
`new_obs` of a sequence, which ours has.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from contenders import _box, _column
from numpy.typing import NDArray
from workloads import Episode, Workload


@dataclass(frozen=True, slots=True)
class Peer:
    """Draws, and what to look at in a draw to tell whether it is right."""

    draw: Callable[[], Any]
    observations: Callable[[Any], NDArray[Any]]
    """`(B, K, ...)` observations of a batch, the earliest first."""


def torchrl_slices(workload: Workload, episodes: Iterable[Episode], length: int, n: int) -> Peer:
    """`n` slices of `length` steps."""
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(workload.capacity),
        sampler=SliceSampler(slice_len=length, traj_key="episode", cache_values=True),
        batch_size=length * n,
    )
    for number, episode in enumerate(episodes):
        parts = {**_steps(episode), "episode": np.full(len(episode), number)}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()}
        buffer.extend(TensorDict(tensors, [len(episode)]))
    return Peer(buffer.sample, lambda batch: batch["obs"].numpy().reshape(n, length, -1))


def flashbax_trajectories(workload: Workload, episodes: Iterable[Episode], length: int, n: int) -> Peer:
    """`n` sequences of `length` steps."""
    import flashbax
    import jax

    buffer = flashbax.make_trajectory_buffer(
        add_batch_size=1,
        sample_batch_size=n,
        sample_sequence_length=length,
        period=1,
        min_length_time_axis=length,
        max_length_time_axis=workload.capacity,
    )
    add = jax.jit(buffer.add, donate_argnums=0)
    state = None
    for episode in episodes:
        steps = _steps(episode)
        if state is None:
            state = buffer.init(jax.tree.map(lambda part: jax.numpy.asarray(part[0]), steps))
        state = add(state, jax.tree.map(lambda part: part[None], steps))

    @jax.jit
    def drawn(state: Any, key: Any) -> tuple[Any, Any]:
        key, used = jax.random.split(key)
        return buffer.sample(state, used).experience, key

    keys = [jax.random.key(0)]

    def draw() -> Any:
        batch, keys[0] = drawn(state, keys[0])
        return jax.block_until_ready(batch)

    return Peer(draw, lambda batch: np.asarray(batch["obs"]))


def stable_baselines3_n_step(
    workload: Workload, episodes: Iterable[Episode], n_steps: int, gamma: float, batch_size: int
) -> Peer:
    """Returns of up to `n_steps` steps."""
    from stable_baselines3.common.buffers import NStepReplayBuffer

    spaces = map(_box, (workload.obs[0], workload.act))
    buffer = NStepReplayBuffer(workload.capacity, *spaces, device="cpu", n_steps=n_steps, gamma=gamma)
    for episode in episodes:
        observations = episode.obs[0]
        dones = episode.terminated | episode.truncated
        infos = [[{"TimeLimit.truncated": truncated}] for truncated in episode.truncated.tolist()]
        for step in zip(observations, observations[1:], episode.act, episode.rew, dones, infos, strict=False):
            buffer.add(*step)
    return Peer(
        lambda: buffer.sample(batch_size),
        lambda batch: np.stack([batch.observations, batch.next_observations], 1),
    )


def cpprb_n_step(
    workload: Workload, episodes: Iterable[Episode], n_steps: int, gamma: float, batch_size: int
) -> Peer:
    """Returns of up to `n_steps` steps.

    Where an episode ends before, cpprb has ones in place of `next_obs`: these are not looked at.
    """
    from cpprb import ReplayBuffer

    obs, act = _column(workload.obs[0]), _column(workload.act)
    columns = {"obs": obs, "next_obs": obs, "act": act, "rew": {}, "done": {}}
    n_step = {"size": n_steps, "gamma": gamma, "rew": "rew", "next": "next_obs"}
    buffer = ReplayBuffer(workload.capacity, columns, Nstep=n_step)
    for episode in episodes:
        for before, after, action, rew, done in _pairs(episode.obs[0], episode):
            buffer.add(obs=before, next_obs=after, act=action, rew=rew, done=done)
        buffer.on_episode_end()

    def observations(batch: Any) -> NDArray[Any]:
        both = np.stack([batch["obs"], batch["next_obs"]], 1)
        return both[(both[:, 1] != 1).any(1)]

    return Peer(lambda: _tensors(buffer.sample(batch_size)), observations)


def cpprb_stacks(workload: Workload, episodes: Iterable[Episode], k: int, batch_size: int) -> Peer:
    """Stacks of `k` frames, `(height, width, k)`: that is how it stores them."""
    from cpprb import ReplayBuffer

    height, width = workload.obs[0].shape
    columns = {
        "obs": {"shape": (height, width, k), "dtype": np.uint8},
        "act": _column(workload.act),
        "rew": {},
        "done": {},
    }
    buffer = ReplayBuffer(workload.capacity, columns, next_of="obs", stack_compress="obs")
    for episode in episodes:
        frames = episode.obs[0]
        padded = np.concatenate([np.repeat(frames[:1], k - 1, axis=0), frames])
        stacks = np.lib.stride_tricks.sliding_window_view(padded, k, axis=0)
        for before, after, action, rew, done in _pairs(stacks, episode):
            buffer.add(obs=before, next_obs=after, act=action, rew=rew, done=done)
        buffer.on_episode_end()
    return Peer(
        lambda: _tensors(buffer.sample(batch_size)),
        lambda batch: np.moveaxis(batch["obs"].numpy(), -1, 1),
    )


def _steps(episode: Episode) -> dict[str, NDArray[Any]]:
    names = ("act", "rew", "terminated", "truncated")
    return {"obs": episode.obs[0][:-1], **{name: getattr(episode, name) for name in names}}


def _pairs(observations: NDArray[Any], episode: Episode) -> Iterator[tuple[Any, ...]]:
    steps = (observations, observations[1:], episode.act, episode.rew, episode.terminated)
    return zip(*steps, strict=False)


def _tensors(drawn: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(part) for name, part in drawn.items()}
