"""What version 1 wrote stays readable: a memory that lives in a folder, a saved one, a dataset, a checkpoint.

The folder `version_1` was written once, by `python tests/test_upgrade.py`, and is never written again.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from nests import is_identical
from tmrl.actor import TorchActorModule
from tmrl.datasets import export, open_dataset
from tmrl.memory import ReplayMemory
from tmrl.networking import Buffer
from tmrl.training import Checkpoint, TorchTrainingOffline, TrainingAgent
from tmrl.transition import Sample, Stamp
from twins import contents

WRITTEN = Path(__file__).parent / "version_1"
SPACES = (spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)))


class Agent(TrainingAgent):
    def __init__(self, observation_space: Any, action_space: Any, device: Any) -> None:
        super().__init__(observation_space, action_space, device)
        self.network = torch.nn.Linear(2, 1)
        self.adam = torch.optim.Adam(self.network.parameters())
        self.updates = np.zeros(3, np.int16)

    def train(self, batch: Any) -> dict[str, Any]:
        raise NotImplementedError

    def get_actor(self) -> TorchActorModule:
        raise NotImplementedError


def samples() -> list[Sample]:
    """Two workers in turns, three episodes each, one of them demonstrated."""
    made: list[Sample] = []
    for i in range(60):
        step, worker = divmod(i, 2)
        episode, episode_step = divmod(step, 10)
        act = None if episode_step == 0 else np.array([-i], np.float32)
        obs = {"image": np.full((2, 2), i, np.uint8), "pose": (np.float64(i), np.array([i], np.int32))}
        flags = episode_step == 9 and episode != 1, episode_step == 9 and episode == 1
        source = "demo" if episode == 1 else "online"
        stamp = Stamp(f"robot-{worker}", 7, step, episode, episode_step, source)
        made.append(Sample((act, obs, float(i), *flags, {"success": i % 3 == 0}), stamp))
    return made


def filled(memory_size: int = 4000, **kwargs: Any) -> ReplayMemory:
    memory = ReplayMemory(memory_size=memory_size, batch_size=8, seed=3, info_keys=("success",), **kwargs)
    buffer = Buffer()
    buffer.memory = list(samples())
    memory.append(buffer)
    memory.sample()
    return memory


def training() -> TorchTrainingOffline:
    torch.manual_seed(5)
    run = TorchTrainingOffline(SPACES, lambda **_: filled(), Agent, device="cpu")
    run.agent.updates += 9
    run.total_updates, run.total_samples = 11, 60
    return run


def write(folder: Path) -> None:
    filled(40, storage_path=folder / "memory").close()  # it has begun to overwrite itself
    (folder / "memory" / "lock").unlink(missing_ok=True)
    filled().save(folder / "saved")
    export(folder / "saved", folder / "dataset")
    Checkpoint(folder / "checkpoint").save(training(), notes={"curve": [1.0, 2.0]})


def assert_same(expected: ReplayMemory, found: ReplayMemory) -> None:
    assert is_identical(contents(expected), contents(found))
    assert expected.stats().workers == found.stats().workers
    assert expected.stats().sources == found.stats().sources
    assert expected.sample().ids.tolist() == found.sample().ids.tolist()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN, tmp_path / "written"))


def test_a_memory_that_lives_in_a_folder_goes_on(written: Path) -> None:
    arguments = {"memory_size": 40, "batch_size": 8, "info_keys": ("success",)}
    with ReplayMemory(**arguments, storage_path=written / "memory") as memory:
        assert memory.stats().damaged == 0
        assert_same(filled(40), memory)


def test_a_saved_memory_is_loaded(written: Path) -> None:
    assert_same(filled(), ReplayMemory.load(written / "saved"))


def test_a_dataset_is_read(written: Path) -> None:
    found, expected = open_dataset(written / "dataset"), open_dataset(written / "saved")
    assert found.schema == expected.schema
    for one, other in zip(found.episodes(), expected.episodes(), strict=True):
        assert one.rows.tobytes() == other.rows.tobytes()
        assert (one.worker, one.source, one.begins) == (other.worker, other.source, other.begins)


@pytest.mark.parametrize("kind", ["memory", "saved", "dataset", "checkpoint"])
def test_every_checksum_is_right(kind: str, written: Path) -> None:
    assert list(open_dataset(written / kind).damage()) == []


def test_a_checkpoint_is_loaded(written: Path) -> None:
    run = training()
    expected = {name: value.clone() for name, value in run.agent.network.state_dict().items()}
    torch.nn.init.zeros_(run.agent.network.weight)
    run.agent.updates[:] = 0
    assert Checkpoint(written / "checkpoint").load(run) == {"curve": [1.0, 2.0]}
    for name, value in run.agent.network.state_dict().items():
        assert torch.equal(value, expected[name])
    assert run.agent.updates.tolist() == [9, 9, 9]
    assert (run.total_updates, run.total_samples) == (11, 60)
    assert_same(filled(), run.memory)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
