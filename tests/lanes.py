"""Environments whose every number is known, as lanes of a vector environment and one by one."""

import itertools
from collections import defaultdict
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tmrl.actor import ActorModule
from tmrl.nest import flatten
from tmrl.networking import RolloutWorker, VectorWorker

MODES = list(AutoresetMode)


class PlannedEnv(gymnasium.Env[Any, Any]):
    """Observes (lane, episode, step, noise) in fresh arrays; the seed and a list say when its episodes end.

    A positive length ends by termination, a negative one by truncation.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, lengths: Any = (3,)) -> None:
        self.lengths = itertools.cycle(lengths)
        self.lane = self.episode = -1.0
        self.seen: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.lane = float(seed)
        self.episode += 1
        self.step_number = 0
        self.length = next(self.lengths)
        return self.observation(), self.info()

    def step(self, action: Any) -> Any:
        self.step_number += 1
        is_done = self.step_number >= abs(self.length)
        obs, info = self.observation(), self.info()
        self.seen.append(np.array(action))
        rew = float(self.np_random.random()) + float(np.sum(action))
        return obs, rew, is_done and self.length > 0, is_done and self.length < 0, info

    def number(self) -> Any:
        values = [self.lane, self.episode, self.step_number, self.np_random.random()]
        return np.array(values, np.float32)

    def observation(self) -> Any:
        return self.number()

    def info(self) -> dict[str, Any]:
        """Numbers, arrays, text, objects and nests; some at times."""
        info: dict[str, Any] = {
            "step": self.step_number,
            "half": self.step_number / 2,
            "is_even": self.step_number % 2 == 0,
            "small": np.float32(self.step_number),
            "array": np.arange(3) + self.step_number,
            "text": f"step {self.step_number}",
            "list": [self.step_number],
            "nest": {"step": self.step_number, "deep": {"array": self.number()}},
            "_hidden": self.step_number,
        }
        if self.step_number == 0:
            info["reset"] = True
        if self.step_number == 2:
            info["nest"]["two"] = 2
            info["pair"] = {"two": {"is": 2}, "none": None}
        return info


class NestedEnv(PlannedEnv):
    """Dictionaries and tuples, observed and acted."""

    observation_space = spaces.Dict(
        {
            "b": spaces.Tuple([PlannedEnv.observation_space, spaces.Discrete(1000)]),
            "a": spaces.Box(0, 255, (2, 2), np.uint8),
        }
    )
    action_space = spaces.Dict({"turn": spaces.Box(-1e9, 1e9, (2,), np.float32), "gear": spaces.Discrete(9)})

    def observation(self) -> Any:
        picture = np.full((2, 2), self.step_number, np.uint8)
        return {"a": picture, "b": (self.number(), self.step_number)}

    def step(self, action: Any) -> Any:
        return super().step(np.append(action["turn"], action["gear"]))


class Linear(ActorModule):
    """Acts by the observation alone, always in the same array."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__(observation_space, action_space)
        self.action = np.zeros(2, np.float32)

    def act(self, obs: Any, test: bool = False) -> Any:
        self.action[:] = np.sum(obs) * 3, np.max(obs)
        return self.action


class NestedLinear(Linear):
    def act(self, obs: Any, test: bool = False) -> Any:
        turn = super().act(np.append(obs["b"][0], obs["b"][1]))
        return {"turn": turn, "gear": int(obs["a"][0, 0]) % 9}


PLANS = [(3, -2, 1), (-4,), (1,), (2, 5, -1, -1)]


def vector_worker(
    plans: Any = PLANS, mode: Any = AutoresetMode.NEXT_STEP, env: Any = PlannedEnv, **options: Any
) -> VectorWorker:
    actor = options.pop("actor", NestedLinear if env is NestedEnv else Linear)
    vector_cls = options.pop("vector_cls", SyncVectorEnv)
    env_options = {"copy": options.pop("copy", True), "autoreset_mode": mode}
    options = {"standalone": True, "worker_id": "w", "seed": 10} | options
    env_fns = [lambda plan=plan: env(plan) for plan in plans]
    return VectorWorker(lambda: vector_cls(env_fns, **env_options), actor, **options)


def single_samples(i: int, n: int, plans: Any = PLANS, env: Any = PlannedEnv, **options: Any) -> list[Any]:
    """The oracle: the first n samples that a RolloutWorker collects in the environment of lane i."""
    actor = NestedLinear if env is NestedEnv else Linear
    options = {"standalone": True, "worker_id": f"w/{i}", "seed": 10 + i} | options
    with RolloutWorker(lambda: env(plans[i]), actor, **options) as worker:
        worker.collect_steps(n)
        return worker.buffer.memory[:n]


def lanes_of(samples: Any) -> dict[str, list[Any]]:
    lanes = defaultdict(list)
    for sample in samples:
        lanes[sample.stamp.worker].append(sample)
    return lanes


def assert_same(samples: Any, expected: Any) -> None:
    """Same stamps, nests, keys, dtypes, shapes and bits."""
    assert len(samples) == len(expected)
    for one, other in zip(samples, expected, strict=True):
        assert one.stamp._replace(epoch=0) == other.stamp._replace(epoch=0)
        leaves, treespec = flatten(tuple(one))
        others, other_treespec = flatten(tuple(other))
        assert treespec == other_treespec
        for leaf, wanted in zip(leaves, others, strict=True):
            assert np.asarray(leaf).dtype == np.asarray(wanted).dtype
            assert np.array_equal(leaf, wanted), (one, other)
            assert isinstance(leaf, np.ndarray) or not isinstance(wanted, np.ndarray)


def assert_same_as_single(
    worker: VectorWorker, plans: Any = PLANS, env: Any = PlannedEnv, **options: Any
) -> None:
    lanes = lanes_of(worker.buffer.memory)
    assert sorted(lanes) == [f"w/{i}" for i in range(len(plans))]
    for i in range(len(plans)):
        samples = lanes[f"w/{i}"]
        assert_same(samples, single_samples(i, len(samples), plans, env, **options))
