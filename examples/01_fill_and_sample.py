"""Fill a replay memory from an environment, draw batches, look inside.

    python examples/01_fill_and_sample.py

No worker, no trainer: the loop below is all there is. One sample is stored for each reset and one for each
step; the memory finds out which of them make transitions.
"""

import argparse
from typing import Any

import gymnasium

from tmrl.memory import ReplayMemory
from tmrl.networking import Buffer


def collect(env: gymnasium.Env[Any, Any], n_steps: int) -> Buffer:
    """Steps the environment at random; the Buffer holds `(act, obs, rew, terminated, truncated, info)`."""
    buffer = Buffer()
    obs, info = env.reset(seed=0)
    buffer.append_sample((None, obs, 0.0, False, False, info))
    for _ in range(n_steps):
        act = env.action_space.sample()
        obs, rew, terminated, truncated, info = env.step(act)
        buffer.append_sample((act, obs, rew, terminated, truncated, info))
        if terminated or truncated:
            obs, info = env.reset()
            buffer.append_sample((None, obs, 0.0, False, False, info))
    return buffer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short run")
    n_steps = 500 if parser.parse_args().smoke else 5_000

    memory = ReplayMemory(memory_size=100_000, batch_size=256, nb_steps=10, seed=0)
    with gymnasium.make("Pendulum-v1") as env:
        env.action_space.seed(0)
        buffer = collect(env, n_steps)
    memory.append(buffer)
    print(f"{len(buffer)} samples make {len(memory)} transitions")

    # A batch is a tuple of six tensors ...
    batch = memory.sample()
    prev_obs, new_act, rew, new_obs, _terminated, _truncated = batch
    print("prev_obs", tuple(prev_obs.shape), prev_obs.dtype)
    print("new_act ", tuple(new_act.shape), new_act.dtype)
    print("rew     ", tuple(rew.shape), rew.dtype)
    print("new_obs ", tuple(new_obs.shape), new_obs.dtype)
    # ... that also knows which rows it was made of.
    print("ids     ", batch.ids[:8], "...")

    # Iterating gives `nb_steps` batches, as a training loop wants them.
    print("mean reward of 10 batches:", round(sum(float(batch.rew.mean()) for batch in memory) / 10, 2))

    # An index means one transition, always the same one; 0 is the oldest.
    oldest = memory.get_transition(0)
    assert (oldest[0] == buffer.memory[0][1]).all()
    assert (oldest[3] == buffer.memory[1][1]).all()

    stats = memory.stats()
    print(f"{stats.rows} rows, {stats.bytes_now:,} bytes; {stats.bytes_full:,} bytes when full")
    print(f"{stats.draws} transitions drawn; median age of the newest batch: {stats.age_rows_p50:.0f} rows")


if __name__ == "__main__":
    main()
