"""Environments, policies and a memory small enough to know every number of, for tests of the pipeline."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from tmrl.actor import ActorModule, TorchActorModule
from tmrl.buffer import Buffer
from tmrl.memory import TorchMemory
from tmrl.training import InProcessLine, TrainingAgent


class CountingEnv(gymnasium.Env[Any, Any]):
    """Observes (episode, step), pays 1 a step, and reuses its own arrays as many environments do."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length: int = 4, truncates: bool = False, info: Callable[[int], Any] | None = None):
        self.length = length
        self.truncates = truncates
        self.make_info = info or (lambda step: {})
        self.obs = np.array([-1.0, 0.0], np.float32)
        self.info: dict[str, Any] = {}
        self.seeds: list[int | None] = []
        self.is_closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seeds.append(seed)
        self.obs += [1.0, 0.0]
        self.obs[1] = 0.0
        self.info.update(self.make_info(0))
        return self.obs, self.info

    def step(self, action: Any) -> Any:
        self.obs[1] += 1.0
        self.info.update(self.make_info(int(self.obs[1])))
        is_done = bool(self.obs[1] >= self.length)
        action *= 0.0
        return self.obs, 1.0, is_done and not self.truncates, is_done and self.truncates, self.info

    def close(self) -> None:
        self.is_closed = True


class CountingActor(ActorModule):
    """Acts with the number of times it was asked, always in the same array."""

    def __init__(self, observation_space: Any, action_space: Any):
        super().__init__(observation_space, action_space)
        self.calls = 0
        self.action = np.zeros(1, np.float32)
        self.tests: list[bool] = []
        self.seen: list[Any] = []

    def act(self, obs: Any, test: bool = False) -> Any:
        self.calls += 1
        self.tests.append(test)
        self.seen.append(np.array(obs))
        self.action[0] = self.calls
        return self.action


class ListMemory(TorchMemory):
    """Lists of columns, in the manner of users' own memories."""

    def append_buffer(self, buffer: Any) -> Any:
        if not self.data:
            self.data = [[] for _ in range(6)]
        for column, values in zip(self.data, zip(*buffer.memory, strict=True), strict=True):
            column.extend(values)
        return self

    def _items(self) -> list[int]:
        if not self.data:
            return []
        _, _, _, terminated, truncated, _ = self.data
        return [i for i in range(len(terminated) - 1) if not (terminated[i] or truncated[i])]

    def __len__(self) -> int:
        return len(self._items())

    def get_transition(self, item: int) -> Any:
        first = self._items()[item]
        act, obs, rew, terminated, truncated, info = self.data
        second = first + 1
        return (
            obs[first],
            act[second],
            rew[second],
            obs[second],
            terminated[second],
            truncated[second],
            info[second],
        )


class Policy(TorchActorModule):
    """A policy of one layer, which is a network and travels as one."""

    def __init__(self, observation_space: Any = None, action_space: Any = None, device: Any = "cpu"):
        super().__init__(observation_space, action_space, device)
        self.layer = torch.nn.Linear(2, 2)

    def act(self, obs: Any, test: bool = False) -> Any:
        return self.layer(obs).numpy()


class CountingAgent(TrainingAgent):
    """Notes its batches; its policy is an actor that counts the updates."""

    def __init__(self, observation_space: Any, action_space: Any, device: Any):
        super().__init__(observation_space, action_space, device)
        self.batches: list[Any] = []
        self.actor = CountingActor(observation_space, action_space)

    def train(self, batch: Any) -> Any:
        self.batches.append(batch)
        self.actor.calls = 1000 * len(self.batches)
        return {"loss": float(len(self.batches))}

    def get_actor(self) -> ActorModule:
        return self.actor


class AnsweringLine(InProcessLine):
    """Notes what is sent; answers the n-th send with `policies[n]` policies."""

    def __init__(self, policies: Any = (), actor_cls: Any = CountingActor) -> None:
        super().__init__()
        self.actor_cls = actor_cls
        self.sent: list[list[Any]] = []
        self.policies = iter(policies)

    def send(self, buffer: Buffer) -> None:
        self.sent.append(list(buffer.memory))
        super().send(buffer)
        for _ in range(next(self.policies, 0)):
            self.broadcast_model(self.actor_cls(None, None))
