"""Policies: saving, loading without running anything, acting."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import tmrl.actor
from dummies import CountingActor
from tmrl.actor import ActorModule, TorchActorModule
from tmrl.errors import PolicyError

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


class Linear(TorchActorModule):
    def __init__(self, observation_space: Any = BOX, action_space: Any = BOX, width: int = 3):
        super().__init__(observation_space, action_space)
        self.layer = torch.nn.Linear(width, width)
        self.tied = self.layer
        self.seen: list[Any] = []

    def act(self, obs: Any, test: bool = False) -> Any:
        self.seen.append((obs, torch.is_grad_enabled(), test))
        return self.layer(obs["x"]).squeeze(0).cpu().numpy()


@pytest.fixture(params=["policy.tmod", "policy.safetensors"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_weights_come_back_as_they_were_saved(path: Path) -> None:
    torch.manual_seed(0)
    saved, loaded = Linear(), Linear()
    saved.save(path)
    assert loaded.load(path, "cpu") is loaded
    assert torch.equal(saved.layer.weight, loaded.layer.weight)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_loading_leaves_the_file_as_it_is(path: Path) -> None:
    Linear().save(path)
    before = path.read_bytes()
    Linear().load(path, "cpu")
    assert path.read_bytes() == before


def test_weights_of_another_network_are_refused(path: Path) -> None:
    Linear(width=4).save(path)
    with pytest.raises(PolicyError, match=r"must hold the weights of a Linear, as its save\(\) writes them"):
        Linear().load(path, "cpu")


def test_a_file_that_is_no_policy_is_refused(path: Path) -> None:
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(PolicyError, match="must hold the weights of a Linear"):
        Linear().load(path, "cpu")


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> Any:
        return Path.touch, (self.crater,)


def test_nothing_in_a_policy_file_is_run(tmp_path: Path) -> None:
    path, crater = tmp_path / "policy.tmod", tmp_path / "crater"
    for write in (
        lambda: torch.save(Bomb(crater), path),
        lambda: path.write_bytes(pickle.dumps(Bomb(crater))),
    ):
        write()
        with pytest.raises(PolicyError):
            Linear().load(path, "cpu")
        with pytest.raises(
            PolicyError, match="runs whatever the file says; if you trust it, pass allow_pickle"
        ):
            CountingActor(None, None).load(path, "cpu")
    assert not crater.exists()
    with pytest.raises(PolicyError, match="found NoneType"):
        CountingActor(None, None).load(path, "cpu", allow_pickle=True)
    assert crater.exists()


def test_a_pickled_policy_comes_back_if_asked_for_by_name(tmp_path: Path) -> None:
    actor = CountingActor(BOX, BOX)
    actor.calls = 5
    actor.save(tmp_path / "policy.pkl")
    loaded = CountingActor(BOX, BOX).load(tmp_path / "policy.pkl", "cpu", allow_pickle=True)
    assert isinstance(loaded, CountingActor)
    assert loaded.calls == 5


def test_a_pickle_that_is_no_policy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.pkl"
    path.write_bytes(pickle.dumps({"not": "a policy"}))
    with pytest.raises(PolicyError, match="must hold a pickled ActorModule, found dict"):
        CountingActor(BOX, BOX).load(path, "cpu", allow_pickle=True)
    path.write_bytes(b"")
    with pytest.raises(PolicyError, match="cannot be unpickled"):
        CountingActor(BOX, BOX).load(path, "cpu", allow_pickle=True)


def test_a_torch_policy_sees_a_batch_of_one_and_no_gradients() -> None:
    actor = Linear()
    action = actor.act_({"x": np.ones(3, np.float32)}, test=True)
    obs, has_gradients, test = actor.seen[0]
    assert (obs["x"].shape, has_gradients, test) == ((1, 3), False, True)
    assert action.shape == (3,)


@pytest.mark.parametrize("device", ["meta", torch.device("meta"), torch.empty(0, device="meta")])
def test_moving_a_policy_notes_its_device(device: Any) -> None:
    actor = Linear()
    assert actor.to(torch.float64).device == "cpu"
    assert actor.to(device) is actor
    assert torch.device(actor.device) == torch.device("meta") == actor.layer.weight.device


def test_a_plain_policy_has_no_device_and_takes_observations_as_they_are() -> None:
    actor = CountingActor(BOX, BOX)
    assert actor.to_device("cuda:7") is actor
    obs = np.ones(3)
    assert actor.act_(obs, test=True)[0] == 1.0
    assert actor.seen[0].shape == (3,)


def test_the_interface_is_abstract() -> None:
    for interface in (ActorModule, TorchActorModule):
        with pytest.raises(TypeError, match="abstract"):
            interface(BOX, BOX)  # type: ignore[abstract]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'JaxActorModule'"):
        _ = tmrl.actor.JaxActorModule  # type: ignore[attr-defined]


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import gymnasium
from tmrl.actor import ActorModule
from tmrl.networking import RolloutWorker

class Random(ActorModule):
    def act(self, obs, test=False):
        return self.action_space.sample()

with RolloutWorker(lambda: gymnasium.make("CartPole-v1"), Random, standalone=True, crc_debug=True) as worker:
    worker.run(nb_episodes=2)
    assert len(worker.buffer.episodes) == 2
"""


def test_a_worker_with_a_plain_policy_runs_without_torch() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True, timeout=120)
