"""Demonstrations beside online data: half of each batch comes from a few recorded episodes (RLPD).

    python examples/11_demonstrations.py

A point is to reach a goal that is far away, and only the goal is rewarded. Whoever acts at random never gets
there, so an agent that learns from its own samples alone has nothing to learn from. Ten recorded episodes of
a clumsy human change that. On the command line it is `tmrl record` and `tmrl train --demos --demo-fraction`.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from tmrl.actor import ActorModule
from tmrl.agents import SACAgent, SquashedGaussianActor
from tmrl.chunk import chunks_of
from tmrl.datasets import DatasetWriter
from tmrl.datasets.samples import episodes_of, schema_of
from tmrl.memory import Mixture, ReplayMemory, Sampler
from tmrl.networking import RolloutWorker
from tmrl.packing import Packer

MAX_STEPS = 60


class Reach(gymnasium.Env[Any, Any]):
    """A point in the plane; the goal is at (1, 1), and nothing else is paid."""

    observation_space = spaces.Box(-2.0, 2.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1.2, -0.8, 2).astype(np.float32)
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.place = np.clip(self.place + 0.2 * action, -2.0, 2.0).astype(np.float32)
        is_there = bool(np.abs(self.place - 1.0).max() < 0.2)
        return self.place, 10.0 * is_there, is_there, False, {}


class Human(ActorModule):
    """Knows where the goal is, and has a shaky hand."""

    rng = np.random.default_rng(1)

    def act(self, obs: Any, test: bool = False) -> Any:
        return np.clip(1.0 - obs + self.rng.normal(0.0, 0.5, 2), -1.0, 1.0).astype(np.float32)


def record(folder: Path, n_episodes: int) -> None:
    """What `tmrl record` does, for an actor of one's own."""
    with RolloutWorker(Reach, Human, standalone=True, source="demo", seed=1) as worker:
        for _ in range(n_episodes):
            worker.collect_train_episode(MAX_STEPS)
        schema = schema_of(worker.buffer.memory, info_keys=())
        with DatasetWriter(folder, schema) as writer:
            for episode in episodes_of(chunks_of(worker.buffer.memory, Packer(schema))):
                writer.write(episode)


def reached(demos: Path | None, sampler: Sampler | None, updates: int) -> list[float]:
    """Trains, one update a step; the share of tests that reach the goal, from time to time."""
    torch.manual_seed(0)
    worker = RolloutWorker(
        Reach, SquashedGaussianActor, standalone=True, seed=0, max_samples_per_episode=MAX_STEPS
    )
    agent = SACAgent(
        worker.env.observation_space,
        worker.env.action_space,
        lr=1e-3,
        gamma=0.95,
        tau=0.02,
        initial_temperature=0.05,
        hidden=(64, 64),
        layer_norm=True,
    )
    worker.actor = agent.get_actor()
    memory = ReplayMemory(batch_size=64, seed=0, sampler=sampler)
    if demos is not None:
        memory.append_dataset(demos, source="demo")
    shares: list[float] = []
    with worker:
        for step in range(1, updates + 1):
            worker.collect_steps(1)
            memory.append(worker.buffer)
            worker.buffer.clear()
            agent.train(memory.sample())
            if step % (updates // 4) == 0:
                worker.run_episodes(nb_episodes=20)
                tests = worker.buffer.episodes
                shares.append(np.mean([test.episode_return > 0 for test in tests]))
                worker.buffer.clear()
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run, too short to learn anything")
    updates = 40 if parser.parse_args().smoke else 1_600
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        record(Path(name) / "demos", n_episodes=10)
        half = Mixture({"online": 0.5, "demo": 0.5})
        for title, demos, sampler in (
            ("without demonstrations", None, None),
            ("half demonstrations", Path(name) / "demos", half),
        ):
            shares = reached(demos, sampler, updates)
            print(f"{title}: the goal is reached in", ", ".join(f"{share:.0%}" for share in shares))


if __name__ == "__main__":
    main()
