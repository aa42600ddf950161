"""The replay memories compared, each behind the same two methods.

`append(episode)` stores one episode, as the library's documentation does it; `sampler(batch_size)` returns a
function that draws one batch and returns `(prev_obs, act, rew, new_obs, terminated, truncated)` as torch
tensors, an observation of several leaves as a tuple. Each peer is used in the fastest way that its
documentation offers; where two of its modes compete, both run. NumPy arrays become tensors without a copy,
unless the library converts them itself. Stable-Baselines3 merges the two flags: it makes five tensors.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from workloads import Episode, Workload, nest, samples

Six = tuple[Any, ...]
tensor = torch.from_numpy


class Contender(Protocol):
    """A replay memory under test."""

    name: str
    knows_episode_ends = True

    def append(self, episode: Episode) -> None: ...

    def sampler(self, batch_size: int) -> Callable[[], Six]: ...


class Tmrl(Contender):
    """Ours."""

    name = "tmrl"

    def __init__(self, workload: Workload) -> None:
        from tmrl.memory import ReplayMemory

        self.memory = ReplayMemory(memory_size=workload.capacity, seed=0)

    def append(self, episode: Episode) -> None:
        from tmrl.networking import Buffer

        buffer = Buffer()
        buffer.memory = samples(episode)
        self.memory.append(buffer)

    def sampler(self, batch_size: int) -> Callable[[], Six]:
        self.memory.batch_size = batch_size
        return self.memory.sample


class Cpprb(Contender):
    """cpprb's ReplayBuffer; with `next_of` it stores each observation once.

    `prioritized` is the exponent alpha of its PrioritizedReplayBuffer.
    """

    def __init__(
        self, workload: Workload, *, next_of: bool = False, prioritized: float | None = None
    ) -> None:
        from cpprb import PrioritizedReplayBuffer, ReplayBuffer

        self.name = "cpprb, next_of" if next_of else "cpprb"
        self._obs = [f"obs{i}" for i in range(len(workload.obs))]
        self._next_obs = [f"next_{name}" for name in self._obs]
        columns = {name: _column(leaf) for name, leaf in zip(self._obs, workload.obs, strict=True)}
        if not next_of:
            columns |= {f"next_{name}": column for name, column in columns.items()}
        flags = {name: {"dtype": np.bool_} for name in ("terminated", "truncated")}
        columns |= {"act": _column(workload.act), "rew": {}, **flags}
        if prioritized is None:
            self._buffer = ReplayBuffer(workload.capacity, columns, next_of=self._obs if next_of else None)
        else:
            self._buffer = PrioritizedReplayBuffer(workload.capacity, columns, alpha=prioritized)

    def append(self, episode: Episode) -> None:
        obs = zip(self._obs, episode.prev_obs, strict=True)
        next_obs = zip(self._next_obs, episode.new_obs, strict=True)
        rest = {name: getattr(episode, name) for name in ("act", "rew", "terminated", "truncated")}
        self._buffer.add(**dict(obs), **dict(next_obs), **rest)
        self._buffer.on_episode_end()

    def sampler(self, batch_size: int) -> Callable[[], Six]:
        def sample() -> Six:
            drawn = self._buffer.sample(batch_size)
            return (
                nest([tensor(drawn[name]) for name in self._obs]),
                tensor(drawn["act"]),
                tensor(drawn["rew"]),
                nest([tensor(drawn[name]) for name in self._next_obs]),
                tensor(drawn["terminated"]),
                tensor(drawn["truncated"]),
            )

        return sample


class StableBaselines3(Contender):
    """ReplayBuffer for one array, DictReplayBuffer for several; `optimized` stores each observation once.

    Optimized, it overwrites the last observation of an episode with the first of the next, and hands that out
    as `new_obs` (DLR-RM/stable-baselines3#934): the check leaves those transitions out.
    """

    def __init__(self, workload: Workload, *, optimized: bool = False) -> None:
        from gymnasium import spaces
        from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

        self.name = "Stable-Baselines3, optimize_memory_usage" if optimized else "Stable-Baselines3"
        self.knows_episode_ends = not optimized
        boxes = [_box(leaf) for leaf in workload.obs]
        self._nested = len(boxes) > 1
        self._buffer = (DictReplayBuffer if self._nested else ReplayBuffer)(
            workload.capacity,
            spaces.Dict({str(i): box for i, box in enumerate(boxes)}) if self._nested else boxes[0],
            _box(workload.act),
            device="cpu",
            optimize_memory_usage=optimized,
            handle_timeout_termination=not optimized,
        )

    def append(self, episode: Episode) -> None:
        dones = episode.terminated | episode.truncated
        infos = [[{"TimeLimit.truncated": truncated}] for truncated in episode.truncated.tolist()]
        observations = list(self._observations(episode))
        steps = zip(observations, observations[1:], episode.act, episode.rew, dones, infos, strict=False)
        for step in steps:
            self._buffer.add(*step)

    def _observations(self, episode: Episode) -> Iterator[Any]:
        for leaves in zip(*episode.obs, strict=True):
            yield {str(i): leaf for i, leaf in enumerate(leaves)} if self._nested else leaves[0]

    def sampler(self, batch_size: int) -> Callable[[], Six]:
        def sample() -> Six:
            obs, act, next_obs, dones, rew, *_ = self._buffer.sample(batch_size)
            if self._nested:
                obs, next_obs = tuple(obs.values()), tuple(next_obs.values())
            return obs, act, rew, next_obs, dones

        return sample


class Tianshou(Contender):
    """Tianshou's ReplayBuffer; with `ignore_obs_next` it stores each observation once.

    It is filled as its `from_data` does it: adding a million steps one by one takes half a minute. With
    `ignore_obs_next` the last `new_obs` of an episode is not stored, `obs` comes out in its place: the check
    leaves those transitions out. `prioritized` is alpha and beta of its PrioritizedReplayBuffer.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        ignore_obs_next: bool = False,
        prioritized: tuple[float, float] | None = None,
    ) -> None:
        from tianshou.data import Batch, PrioritizedReplayBuffer, ReplayBuffer

        self.name = "Tianshou, ignore_obs_next" if ignore_obs_next else "Tianshou"
        self.knows_episode_ends = not ignore_obs_next
        self._names = [f"leaf{i}" for i in range(len(workload.obs))]
        if prioritized is None:
            self._buffer = ReplayBuffer(workload.capacity, ignore_obs_next=ignore_obs_next)
        else:
            self._buffer = PrioritizedReplayBuffer(workload.capacity, *prioritized)
        self._columns = {
            "act": _zeros(workload.capacity, workload.act),
            "rew": np.zeros(workload.capacity),
            "terminated": np.zeros(workload.capacity, bool),
            "truncated": np.zeros(workload.capacity, bool),
            "done": np.zeros(workload.capacity, bool),
        }
        stored = ("obs",) if ignore_obs_next else ("obs", "obs_next")
        self._obs = {name: [_zeros(workload.capacity, leaf) for leaf in workload.obs] for name in stored}
        nested = {name: self._nest(leaves, Batch) for name, leaves in self._obs.items()}
        self._buffer.set_batch(Batch(**self._columns, **nested))
        self._next = 0

    def _nest(self, leaves: list[Any], batch_type: type) -> Any:
        return leaves[0] if len(leaves) == 1 else batch_type(**dict(zip(self._names, leaves, strict=True)))

    def append(self, episode: Episode) -> None:
        slots = (self._next + np.arange(len(episode))) % self._buffer.maxsize
        self._next = (slots[-1] + 1) % self._buffer.maxsize
        done = episode.terminated | episode.truncated
        for name, column in self._columns.items():
            column[slots] = done if name == "done" else getattr(episode, name)
        for name, columns in self._obs.items():
            leaves = episode.prev_obs if name == "obs" else episode.new_obs
            for column, leaf in zip(columns, leaves, strict=True):
                column[slots] = leaf
        self._buffer._size = max(self._buffer._size, slots.max() + 1)  # noqa: SLF001
        self._buffer.last_index[0] = slots[-1]

    def sampler(self, batch_size: int) -> Callable[[], Six]:
        def tensors(obs: Any) -> Any:
            return tensor(obs) if isinstance(obs, np.ndarray) else tuple(tensor(obs[n]) for n in self._names)

        def sample() -> Six:
            drawn, _ = self._buffer.sample(batch_size)
            return (
                tensors(drawn.obs),
                tensor(drawn.act),
                tensor(drawn.rew),
                tensors(drawn.obs_next),
                tensor(drawn.terminated),
                tensor(drawn.truncated),
            )

        return sample


class TorchRL(Contender):
    """TorchRL's ReplayBuffer over a LazyTensorStorage of nested tuples, faster here than of a TensorDict."""

    name = "TorchRL"

    def __init__(self, workload: Workload) -> None:
        from torchrl.data import LazyTensorStorage, ReplayBuffer

        self.buffer = ReplayBuffer(storage=LazyTensorStorage(workload.capacity))

    def append(self, episode: Episode) -> None:
        prev_obs, new_obs = (
            nest([tensor(leaf) for leaf in obs]) for obs in (episode.prev_obs, episode.new_obs)
        )
        act, rew, terminated, truncated = (
            tensor(getattr(episode, name)) for name in ("act", "rew", "terminated", "truncated")
        )
        self.buffer.extend((prev_obs, act, rew, new_obs, terminated, truncated))

    def sampler(self, batch_size: int) -> Callable[[], Six]:
        return lambda: tuple(self.buffer.sample(batch_size))


def make_contenders(workload: Workload) -> list[Contender]:
    """Ours and the peers, empty."""
    contenders: list[Contender] = [
        Tmrl(workload),
        Cpprb(workload),
        Cpprb(workload, next_of=True),
        StableBaselines3(workload),
        Tianshou(workload),
        Tianshou(workload, ignore_obs_next=True),
        TorchRL(workload),
    ]
    if len(workload.obs) == 1:  # its DictReplayBuffer has no such mode
        contenders.append(StableBaselines3(workload, optimized=True))
    return contenders


def check(contender: Contender, workload: Workload, batch_size: int = 16) -> None:
    """Compares every transition of one batch with the episode it came from.

    Raises:
        AssertionError: Something else than what was stored came out.
    """
    prev_obs, act, rew, new_obs, *flags = contender.sampler(batch_size)()
    for i, number in enumerate(rew.flatten().long().tolist()):
        episode_number, step = divmod(number, workload.episode_length)
        if step == workload.episode_length - 1 and not contender.knows_episode_ends:
            continue
        episode = workload.episode(episode_number)
        found = [*_leaves(prev_obs), *_leaves(new_obs), act, *flags]
        expected = [*episode.prev_obs, *episode.new_obs, episode.act, episode.terminated, episode.truncated]
        for theirs, ours in zip(found, expected, strict=False):
            value = theirs[i].numpy().reshape(ours[step].shape)
            np.testing.assert_array_equal(value, ours[step], err_msg=contender.name)


def _leaves(obs: Any) -> tuple[Any, ...]:
    return obs if isinstance(obs, tuple) else (obs,)


def _column(leaf: Any) -> dict[str, Any]:
    return {"shape": leaf.shape, "dtype": np.dtype(leaf.dtype)}


def _zeros(capacity: int, leaf: Any) -> np.ndarray:
    return np.zeros((capacity, *leaf.shape), leaf.dtype)


def _box(leaf: Any) -> Any:
    from gymnasium import spaces

    low, high = (0, 255) if leaf.dtype == "uint8" else (-np.inf, np.inf)
    return spaces.Box(low, high, leaf.shape, np.dtype(leaf.dtype).type)
