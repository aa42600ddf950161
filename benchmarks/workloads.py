"""What is stored: four workloads, and their episodes, made anew from a seed whenever one is needed.

The reward of a transition is its number, counted over all episodes: it tells which transition a contender
handed out, so that every contender can be checked before it is timed.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class Leaf(NamedTuple):
    """Dtype and shape of one array of an observation or action."""

    dtype: str
    shape: tuple[int, ...]

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[Any]:
        if self.dtype == "uint8":
            return rng.integers(0, 256, (count, *self.shape), np.uint8)
        if self.dtype == "int64":  # numbered actions
            return rng.integers(0, 6, (count, *self.shape))
        return rng.standard_normal((count, *self.shape), self.dtype)


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode of L steps, in columns: `obs` has L + 1 rows per leaf, everything else L."""

    obs: tuple[NDArray[Any], ...]
    act: NDArray[Any]
    rew: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.act)

    @property
    def prev_obs(self) -> tuple[NDArray[Any], ...]:
        return tuple(leaf[:-1] for leaf in self.obs)

    @property
    def new_obs(self) -> tuple[NDArray[Any], ...]:
        return tuple(leaf[1:] for leaf in self.obs)


@dataclass(frozen=True)
class Workload:
    """Observations, actions and how many transitions of them a full memory holds."""

    name: str
    summary: str
    obs: tuple[Leaf, ...]
    act: Leaf
    capacity: int
    episode_length: int = 1_000

    def with_capacity(self, capacity: int) -> Self:
        return replace(self, capacity=capacity, episode_length=min(self.episode_length, capacity // 4))

    @cached_property
    def episodes_to_fill(self) -> int:
        """Episodes after which any memory of `capacity` transitions is full and has begun anew."""
        return self.capacity // self.episode_length + 2

    @cached_property
    def row(self) -> np.dtype[np.void]:
        """One sample, packed: what the limit gathers and what "payload" means."""
        leaves = [(f"obs{i}", leaf.dtype, leaf.shape) for i, leaf in enumerate(self.obs)]
        scalars = [("rew", "float32"), ("terminated", "bool"), ("truncated", "bool")]
        packed = np.dtype([*leaves, ("act", self.act.dtype, self.act.shape), *scalars])
        itemsize = max(np.dtype(leaf.dtype).itemsize for leaf in (*self.obs, self.act))
        padding = -packed.itemsize % max(itemsize, 4)
        return np.dtype([*packed.descr, ("", f"V{padding}")]) if padding else packed

    @cached_property
    def transition_bytes(self) -> int:
        """Bytes of the six parts of one transition."""
        obs = sum(np.dtype(leaf.dtype).itemsize * prod(leaf.shape) for leaf in self.obs)
        return self.row.itemsize + obs

    def episode(self, number: int) -> Episode:
        """The episode of that number: terminated if it is even, else truncated."""
        rng = np.random.default_rng([2026, number])
        length = self.episode_length
        last = np.arange(length) == length - 1
        return Episode(
            obs=tuple(leaf.draw(rng, length + 1) for leaf in self.obs),
            act=self.act.draw(rng, length),
            rew=np.arange(number * length, (number + 1) * length).astype(np.float32),
            terminated=last & (number % 2 == 0),
            truncated=last & (number % 2 == 1),
        )


def one_frame(workload: Workload) -> Workload:
    """The workload of stacked frames with one frame an observation."""
    (leaf,) = workload.obs
    return replace(workload, obs=(leaf._replace(shape=leaf.shape[1:]),))


def nest(leaves: tuple[Any, ...] | list[Any]) -> Any:
    """An observation as an environment gives it: its one array, or a tuple of several."""
    return leaves[0] if len(leaves) == 1 else tuple(leaves)


def samples(episode: Episode) -> list[tuple[Any, ...]]:
    """The sample tuples a worker produces in this episode: each array is its own, as from an environment."""
    observations = [nest([leaf.copy() for leaf in leaves]) for leaves in zip(*episode.obs, strict=True)]
    steps = zip(
        [act.copy() for act in episode.act],
        observations[1:],
        episode.rew.tolist(),
        episode.terminated.tolist(),
        episode.truncated.tolist(),
        strict=True,
    )
    return [(None, observations[0], 0.0, False, False, {}), *((*step, {}) for step in steps)]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "W1",
            "vectors: 17 floats, action of 6",
            (Leaf("float32", (17,)),),
            Leaf("float32", (6,)),
            1_000_000,
        ),
        Workload(
            "W2",
            "four stacked frames of 84x84 bytes",
            (Leaf("uint8", (4, 84, 84)),),
            Leaf("float32", (1,)),
            50_000,
            episode_length=200,
        ),
        Workload(
            "W3",
            "a lidar's four leaves, 83 floats, action of 3",
            tuple(Leaf("float32", shape) for shape in ((1,), (4, 19), (3,), (3,))),
            Leaf("float32", (3,)),
            1_000_000,
        ),
        Workload(
            "W4",
            "two cameras of 3x128x128 bytes and 14 floats, action of 7",
            (Leaf("uint8", (3, 128, 128)), Leaf("uint8", (3, 128, 128)), Leaf("float32", (14,))),
            Leaf("float32", (7,)),
            10_000,
            episode_length=200,
        ),
    )
}
