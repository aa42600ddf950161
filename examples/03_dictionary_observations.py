"""Images and numbers in one observation, entries of `info` in the batch, demonstrations beside online data.

    python examples/03_dictionary_observations.py

The memory takes the nest from the environment's spaces, or from the first sample. Images are stored once, as
uint8, although each belongs to two transitions.
"""

import argparse
from typing import Any

import gymnasium
import numpy as np
import optree
import torch
from gymnasium import spaces

from tmrl.actor import ActorModule
from tmrl.memory import Batch, ReplayMemory
from tmrl.networking import RolloutWorker


class Arm(gymnasium.Env[Any, Any]):
    """A stand-in for a robot with two cameras: it reaches for a goal on a line."""

    observation_space = spaces.Dict(
        {
            "cameras": spaces.Tuple([spaces.Box(0, 255, (3, 64, 64), np.uint8)] * 2),
            "joints": spaces.Box(-1.0, 1.0, (7,), np.float32),
        }
    )
    action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.joints = np.zeros(7, np.float32)
        self.goal = self.np_random.uniform(-1.0, 1.0, 7).astype(np.float32)
        self.count = 0
        return self.observation(), {"distance": self.distance()}

    def step(self, action: Any) -> Any:
        self.joints = np.clip(self.joints + 0.1 * action, -1.0, 1.0).astype(np.float32)
        self.count += 1
        distance = self.distance()
        is_near = bool(distance < 0.2)
        return self.observation(), -float(distance), is_near, self.count >= 50, {"distance": distance}

    def observation(self) -> Any:
        images = self.np_random.integers(0, 256, (2, 3, 64, 64), np.uint8)
        return {"cameras": (images[0], images[1]), "joints": self.joints}

    def distance(self) -> np.float32:
        return np.abs(self.joints - self.goal).max()


class Random(ActorModule):
    """Acts at random."""

    def act(self, obs: Any, test: bool = False) -> Any:
        return self.action_space.sample()


def images_to_floats(batch: Batch) -> Batch:
    """On the batch's device, for all its images at once: 0..255 becomes 0..1."""
    for obs in (batch.prev_obs, batch.new_obs):
        obs["cameras"] = tuple(images.to(torch.float32) / 255 for images in obs["cameras"])
    return batch


def shapes(nest: Any) -> Any:
    """The shapes of the tensors in a nest."""
    return optree.tree_map(lambda leaf: tuple(leaf.shape), nest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run")
    n_steps = 60 if parser.parse_args().smoke else 1_000

    memory = ReplayMemory(
        memory_size=2_000,
        batch_size=32,
        seed=0,
        observation_space=Arm.observation_space,
        action_space=Arm.action_space,
        info_keys=("distance",),
        batch_preprocessor=images_to_floats,
    )
    # Two workers feed one memory. Each labels what it sends; their streams are never stitched together.
    for worker_id, source in (("teacher", "demo"), ("robot", "online")):
        worker = RolloutWorker(Arm, Random, standalone=True, worker_id=worker_id, source=source, seed=0)
        with worker:
            worker.collect_steps(n_steps)
            memory.append(worker.buffer)

    batch = memory.sample()
    for name in ("cameras", "joints"):
        print(name, shapes(batch.new_obs[name]))
    print("distance", tuple(batch.info["distance"].shape), batch.info["distance"].dtype)

    stats = memory.stats()
    rows = {source: counts.rows for source, counts in stats.sources.items()}
    print(f"rows by source: {rows}; {stats.bytes_now / stats.rows:,.0f} bytes a row")
    assert stats.bytes_now < 1.01 * stats.rows * (2 * 3 * 64 * 64 + 100)

    # The size may change at any time: the newest transitions stay.
    memory.memory_size = n_steps // 2
    print(f"after memory_size = {n_steps // 2}: {len(memory)} transitions, all online:", end=" ")
    print(memory.stats().sources["demo"].rows == 0)


if __name__ == "__main__":
    main()
