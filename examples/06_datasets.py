"""Record episodes, read them, begin a memory with them, hand them to other tools.

    python examples/06_datasets.py

Everything happens in a temporary folder. The command line does the same: `tmrl record`, `tmrl export`, and
`tmrl train --dataset`.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tmrl.actor import ActorModule
from tmrl.chunk import chunks_of
from tmrl.datasets import DatasetWriter, export, open_dataset
from tmrl.datasets.samples import episodes_of, schema_of
from tmrl.envs import GenericGymEnv
from tmrl.memory import ReplayMemory
from tmrl.networking import RolloutWorker
from tmrl.packing import Packer


class Swing(ActorModule):
    """Pushes the pendulum the way it moves."""

    def act(self, obs: Any, test: bool = False) -> Any:
        return np.array([2 * np.sign(obs[2])], np.float32)


def record(folder: Path, n_episodes: int) -> None:
    """Each episode is on the disk when `write` returns, whatever happens then."""
    env_cls = partial(GenericGymEnv, "Pendulum-v1", to_float32=True)
    with RolloutWorker(env_cls, Swing, standalone=True, worker_id="ann", source="demo", seed=0) as worker:
        worker.collect_train_episode(max_samples=50)
        schema = schema_of(worker.buffer.memory, info_keys=())
        with DatasetWriter(folder, schema, "Pendulum-v1", durable=True) as writer:
            for _ in range(n_episodes):
                (episode,) = episodes_of(chunks_of(worker.buffer.memory, Packer(schema)))
                writer.write(episode)
                worker.buffer.clear()
                worker.collect_train_episode(max_samples=50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few episodes")
    n_episodes = 3 if parser.parse_args().smoke else 30

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record(folder / "swings", n_episodes)
        dataset = open_dataset(folder / "swings")
        best = max(dataset.episodes(), key=lambda episode: episode.episode_return)
        print(f"{len(dataset)} episodes of {dataset.about.environment}; the best: {best.episode_return:.0f}")

        memory = ReplayMemory(batch_size=64, dataset_path=folder / "swings", seed=0)
        print(
            f"{memory}, of {', '.join(memory.stats().sources)}; mean reward {memory.sample().rew.mean():.1f}"
        )

        report = export(folder / "swings", folder / "swings.npz", to="npz")
        with np.load(folder / "swings.npz") as columns:
            print(f"{report.transitions} transitions as npz: {', '.join(columns)}")


if __name__ == "__main__":
    main()
