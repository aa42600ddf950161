"""Learn values from prioritized batches, half of them demonstrations.

    python examples/07_prioritized.py

A table of values of a corridor is learned from many walks that lead nowhere and from two demonstrations that
go straight to the goal. Only the last step is paid, so few transitions have an error worth learning from.
With priorities they are found and drawn; with a mixture half of each batch are demonstrations anyway.
"""

import argparse

import numpy as np

from tmrl.memory import Mixture, Prioritized, ReplayMemory, Sampler, Uniform
from tmrl.networking import Buffer

LENGTH = 24
DISCOUNT = 0.95


def walk(rng: np.random.Generator, p_right: float) -> Buffer:
    """A walk of a hundred steps, or to the right end of the corridor, where a step is paid."""
    buffer, place = Buffer(), 0
    buffer.append_sample((None, np.int64(place), 0.0, False, False, {}))
    while place < LENGTH and len(buffer) <= 100:
        step = 1 if rng.random() < p_right else -1
        place = max(0, place + step)
        is_goal = place == LENGTH
        buffer.append_sample((np.int64(step > 0), np.int64(place), float(is_goal), is_goal, False, {}))
    return buffer


def error_after(sampler: Sampler, updates: int) -> float:
    """How far the learned values are from the right ones, on average over the places."""
    rng = np.random.default_rng(0)
    memory = ReplayMemory(memory_size=50_000, batch_size=32, seed=0, sampler=sampler)
    for _ in range(100):
        memory.append(walk(rng, p_right=0.4), source="online")
    for _ in range(2):
        memory.append(walk(rng, p_right=1.0), source="demo")

    values = np.zeros((LENGTH + 1, 2))
    for _ in range(updates):
        batch = memory.sample()
        prev_obs, act, rew, obs, terminated, _ = (part.numpy() for part in batch)
        targets = rew + DISCOUNT * (1 - terminated) * values[obs].max(axis=1)
        td_errors = targets - values[prev_obs, act]
        # Each value moves by the weighted mean of its errors.
        weights = batch.weights.numpy()
        errors, total = np.zeros_like(values), np.full_like(values, 1e-9)
        np.add.at(errors, (prev_obs, act), weights * td_errors)
        np.add.at(total, (prev_obs, act), weights)
        values += 0.5 * errors / total
        if sampler.has_priorities:
            memory.update_priorities(batch.ids, td_errors)

    right = DISCOUNT ** np.arange(LENGTH - 1, -1, -1)
    return float(np.abs(values[:LENGTH, 1] - right).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run")
    updates = 300 if parser.parse_args().smoke else 3_000

    samplers = {
        "uniform": Uniform(),
        "prioritized": Prioritized(beta_steps=updates),
        "half demonstrations, both prioritized": Mixture(
            {"demo": 0.5, "online": 0.5},
            {"demo": Prioritized(beta_steps=updates), "online": Prioritized(beta_steps=updates)},
        ),
    }
    print(f"mean error of the values after {updates} batches")
    for name, sampler in samplers.items():
        print(f"  {error_after(sampler, updates):.3f}  {name}")


if __name__ == "__main__":
    main()
