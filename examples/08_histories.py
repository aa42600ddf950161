"""Histories: the actor sees stacks and past actions, and each frame is sent and stored once.

    python examples/08_histories.py

A car sees `(speed[1], lidar[4, 19], action[3], action[3])`: its speed, the last four scans, the last two
actions. One `History` tells worker and memory what repeats. The worker proves it and leaves it out, the
memory hands out the whole observation, and checksums compare it with what the actor saw.
"""

import argparse
from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tmrl.actor import ActorModule
from tmrl.memory import ActionBuffer, History, Latest, ReplayMemory, Stacked
from tmrl.networking import RolloutWorker

HISTORY = History((Latest(), Stacked(4), ActionBuffer(2)))


class Car(gymnasium.Env[Any, Any]):
    """A car on a straight track with walls at random distances; observes as real-time environments do."""

    action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    observation_space = spaces.Tuple(
        [spaces.Box(0, 100, (1,)), spaces.Box(0, 1, (4, 19)), action_space, action_space]
    )
    default_action = np.zeros(3, np.float32)

    def __init__(self) -> None:
        self.speed = 0.0
        self.scans: deque[Any] = deque(maxlen=4)
        self.actions: deque[Any] = deque(maxlen=2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.speed = 0.0
        self.scans.extend([self.scan()] * 4)
        self.actions.extend([self.default_action] * 2)
        return self.observation(), {}

    def step(self, action: Any) -> Any:
        self.speed = max(0.0, self.speed + float(action[0]))
        self.scans.append(self.scan())
        self.actions.append(action)
        return self.observation(), self.speed, False, False, {}

    def scan(self) -> Any:
        return self.np_random.random(19, np.float32)

    def observation(self) -> Any:
        return np.array([self.speed], np.float32), np.array(self.scans), *self.actions


class Wander(ActorModule):
    """Acts at random."""

    def act(self, obs: Any, test: bool = False) -> Any:
        return self.action_space.sample()


def bytes_a_row(history: History | None, n_steps: int) -> int:
    """Collects, checks a batch, and tells what a row takes."""
    with RolloutWorker(
        Car, Wander, standalone=True, worker_id="car", crc_debug=True, history=history
    ) as worker:
        memory = ReplayMemory(
            memory_size=10_000,
            batch_size=64,
            crc_debug=True,
            seed=0,
            observation_space=worker.env.observation_space,
            history=history,
        )
        for _ in range(4):
            worker.collect_train_episode(max_samples=n_steps // 4)
            memory.append(worker.buffer)
            worker.buffer.clear()
    shapes = [tuple(part.shape) for part in memory.sample().new_obs]
    print(f"{memory.stats().crc_checked} of {len(memory)} transitions checked; observations are {shapes}")
    assert memory.schema is not None
    return sum(leaf.n_bytes for leaf in memory.schema.obs.leaves)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run")
    n_steps = 200 if parser.parse_args().smoke else 5_000
    whole, compressed = bytes_a_row(None, n_steps), bytes_a_row(HISTORY, n_steps)
    print(f"an observation takes {whole} bytes whole, and {compressed} with its history")


if __name__ == "__main__":
    main()
