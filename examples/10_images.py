"""Learn from images: frames stored once, stacked at the draw, shifted at random as a whole batch.

    python examples/10_images.py

A ball falls aslant over a screen, and a paddle is to catch it. One frame does not show which way the ball
moves, so policy and agent see stacks of the last three. Each frame travels once and is stored once, as bytes.
"""

import argparse
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from tmrl.agents import DQNActor, DQNAgent
from tmrl.memory import FrameStack, NStep, RandomShift, ReplayMemory
from tmrl.networking import RolloutWorker

CELL, CELLS, STACK, DISCOUNT = 4, 10, 3, 0.95


class Catch(gymnasium.Env[Any, Any]):
    """A screen of 40 x 40 grey pixels: a ball that falls, and a paddle of three cells."""

    observation_space = spaces.Box(0, 255, (CELL * CELLS, CELL * CELLS), np.uint8)
    action_space = spaces.Discrete(3)  # left, stay, right

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.ball = np.array([0, self.np_random.integers(CELLS)])
        self.drift = int(self.np_random.integers(-1, 2))
        self.paddle = CELLS // 2
        return self.screen(), {}

    def step(self, action: Any) -> Any:
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 1, CELLS - 2))
        if not 0 <= self.ball[1] + self.drift < CELLS:
            self.drift = -self.drift
        self.ball += (1, self.drift)
        is_down = bool(self.ball[0] == CELLS - 1)
        is_caught = abs(int(self.ball[1]) - self.paddle) <= 1
        return self.screen(), (1.0 if is_caught else -1.0) if is_down else 0.0, is_down, False, {}

    def screen(self) -> Any:
        cells = np.zeros((CELLS, CELLS), np.uint8)
        cells[-1, self.paddle - 1 : self.paddle + 2] = 128
        cells[tuple(self.ball)] = 255
        return cells.repeat(CELL, axis=0).repeat(CELL, axis=1)


def caught(worker: RolloutWorker, episodes: int) -> float:
    """The share of balls that the policy catches without exploring."""
    worker.buffer.episodes.clear()
    worker.run_episodes(nb_episodes=episodes)
    return float(np.mean([record.episode_return > 0 for record in worker.buffer.episodes]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run, too short to learn anything")
    rounds = 1 if parser.parse_args().smoke else 10
    torch.manual_seed(0)
    torch.set_num_threads(1)

    worker = RolloutWorker(Catch, DQNActor, standalone=True, seed=0, frame_stack=STACK)
    agent = DQNAgent(
        worker.actor.observation_space,
        worker.env.action_space,
        gamma=DISCOUNT,
        lr=1e-3,
        hidden=(128,),
        tau=0.02,
        epsilon_updates=1_000,
    )
    worker.actor = agent.get_actor()
    memory = ReplayMemory(
        memory_size="100MB",
        batch_size=32,
        seed=0,
        window=NStep(3, DISCOUNT, stack=FrameStack(STACK)),
        batch_preprocessor=RandomShift(pad=2),
    )
    with worker:
        worker.collect_steps(200)
        for number in range(1, rounds + 1):
            for _ in range(20 if rounds == 1 else 300):
                worker.collect_steps(2)
                memory.append(worker.buffer)
                worker.buffer.clear()
                agent.train(memory.sample())
            print(f"round {number}: {caught(worker, 50):.0%} of 50 balls caught")

    stats = memory.stats()
    stacks = 2 * STACK * worker.env.observation_space.shape[0] ** 2
    print(f"batches of {tuple(memory.sample().new_obs.shape)}, {memory.sample().new_obs.dtype}")
    print(
        f"{stats.bytes_now / stats.rows:,.0f} bytes a transition; two stacks of bytes would take {stacks:,}"
    )
    print(f"{stats.capacity:,} transitions fit into {stats.bytes_full / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
