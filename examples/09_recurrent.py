"""A recurrent agent learns to remember, from sequences with stored recurrent states (R2D2).

    python examples/09_recurrent.py

A cue is shown at the first step of a corridor; at its end, the agent must turn the way the cue said. Whoever
does not remember is right half of the time. The memory hands out sequences from anywhere in an episode, with
the recurrent state that the worker had there, and late writes keep those states fresh.
"""

import argparse
from typing import Any

import numpy as np
import torch
from torch import nn

from tmrl.memory import ReplayMemory, Sequence
from tmrl.networking import Buffer

LENGTH, BURN_IN, HIDDEN, DISCOUNT = 6, 2, 32, 0.95


class RecurrentQ(nn.Module):
    """Observations and a recurrent state in, values of both turns out."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 2)

    def forward(self, obs: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(B, T, 2)` and `(B, HIDDEN)` to values `(B, T, 2)` and the states after each step."""
        states, _ = self.gru(obs, state[None].contiguous())
        return self.head(states), states


class Corridor:
    """Sees `(cue, is_end)`; the cue is -1 or 1 at the first step, and 0 from then on."""

    def __init__(self, rng: np.random.Generator, length: int) -> None:
        self.rng, self.length = rng, length

    def reset(self) -> np.ndarray:
        self.place, self.cue = 0, int(self.rng.integers(2))
        return np.array([2 * self.cue - 1, 0], np.float32)

    def step(self, turn: int) -> tuple[np.ndarray, float, bool]:
        self.place += 1
        is_over = self.place > self.length
        rew = (1.0 if turn == self.cue else -1.0) if is_over else 0.0
        return np.array([0, self.place == self.length], np.float32), rew, is_over


@torch.no_grad()
def episode(env: Corridor, network: RecurrentQ, epsilon: float) -> Buffer:
    """Each sample's info has the state that the network had before it saw the observation."""
    buffer, state = Buffer(), torch.zeros(1, HIDDEN)
    obs, is_over = env.reset(), False
    buffer.append_sample((None, obs, 0.0, False, False, {"state": state[0].numpy()}))
    while not is_over:
        values, states = network(torch.from_numpy(obs)[None, None], state)
        state = states[:, -1]
        is_random = env.rng.random() < epsilon
        turn = int(env.rng.integers(2)) if is_random else int(values.argmax())
        obs, rew, is_over = env.step(turn)
        info = {"state": state[0].numpy()}
        buffer.append_sample((np.int64(turn), obs, rew, is_over, False, info))
    return buffer


def update(memory: ReplayMemory, network: RecurrentQ, target: RecurrentQ, optimizer: Any) -> None:
    batch = memory.sample()
    obs = torch.cat([batch.prev_obs[:, :1], batch.new_obs], dim=1)  # T + 1 observations
    stored = batch.info["state"][:, 0]  # the state that belongs to the first of them

    # The first steps only bring the state up to date with the networks as they are now.
    with torch.no_grad():
        _, warmed = network(obs[:, :BURN_IN], stored)
        _, target_warmed = target(obs[:, :BURN_IN], stored)
        next_values = target(obs[:, BURN_IN:], target_warmed[:, -1])[0][:, 1:]
    values = network(obs[:, BURN_IN:], warmed[:, -1])[0]

    # Double Q-learning on every step that is learned from.
    parts = (batch.new_act, batch.rew, batch.terminated, batch.mask)
    act, rew, terminated, mask = (part[:, BURN_IN:] for part in parts)
    best = values[:, 1:].argmax(dim=-1, keepdim=True)
    future = next_values.gather(-1, best)[..., 0]
    targets = rew + DISCOUNT * (1 - terminated) * future
    errors = values[:, :-1].gather(-1, act[..., None])[..., 0] - targets.detach()
    loss = (mask * errors.square()).sum() / mask.sum().clamp(min=1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    # A late write: the states that the network has there today, for the next time.
    rows = batch.info_ids[:, 1 : BURN_IN + 1]
    memory.write(rows[rows >= 0], state=warmed[rows >= 0])


def success(env: Corridor, network: RecurrentQ, episodes: int = 50) -> float:
    return float(np.mean([episode(env, network, 0.0).memory[-1][2] > 0 for _ in range(episodes)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run, too short to learn much")
    rounds = 2 if parser.parse_args().smoke else 12
    torch.manual_seed(0)
    torch.set_num_threads(1)
    env = Corridor(np.random.default_rng(0), length=10)
    network, target = RecurrentQ(), RecurrentQ()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    window = Sequence(LENGTH, burn_in=BURN_IN)
    memory = ReplayMemory(memory_size=20_000, batch_size=64, seed=0, window=window, info_keys=("state",))

    for number in range(rounds):
        for step in range(100):
            memory.append(episode(env, network, epsilon=max(0.1, 1 - number / 5)))
            update(memory, network, target, optimizer)
            if step % 25 == 0:
                target.load_state_dict(network.state_dict())
        print(f"after {100 * (number + 1)} episodes: right in {success(env, network):.0%} of 50")


if __name__ == "__main__":
    main()
