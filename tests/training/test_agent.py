"""What an agent's attributes hold is collected and put back, in place."""

import collections
import copy
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dummies import CountingEnv
from tmrl.agents import SACAgent
from tmrl.training import TrainingAgent
from tmrl.training.state_file import check_state

SPACES = (CountingEnv.observation_space, CountingEnv.action_space)


class Pair(NamedTuple):
    network: Any
    number: Any


class EveryKind(TrainingAgent):
    """Has an attribute of every kind that is saved by default; `train` changes them all."""

    not_saved = ("line",)

    def __init__(self, seed: int) -> None:
        super().__init__(*SPACES, "cpu")
        torch.manual_seed(seed)
        self.line = object()
        self.dtype, self.place = torch.float32, torch.device("cpu")
        self.network = torch.nn.Linear(2, 2)
        self.alias = self.network
        self.ensemble = [torch.nn.Linear(2, 1) for _ in range(2)]
        self.named = {"a": torch.nn.Linear(1, 1)}
        self.pair = Pair(torch.nn.Linear(1, 1), 0)
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.log_alphas = (torch.zeros(1, requires_grad=True), torch.zeros(2, requires_grad=True))
        parameters = [*self.network.parameters(), self.log_alpha, *self.log_alphas]
        self._adam = torch.optim.Adam(parameters, 0.1)
        self._adams = {"ensemble": torch.optim.SGD(self.ensemble[0].parameters(), 0.1, momentum=0.9)}
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self._adam, [2, 4])
        self.running = torch.zeros(3)
        self.array = np.zeros(3)
        self.steps, self.is_warm, self.phase, self.best = 0, False, "first", None
        self.losses = collections.deque(maxlen=3)
        self.history = [torch.zeros(1)]
        self.counts = {"updates": 0, 3: [1]}
        self.rng, self.old_rng = np.random.default_rng(seed), np.random.RandomState(seed)
        self.python_rng, self.torch_rng = random.Random(seed), torch.Generator().manual_seed(seed)

    def train(self, batch: Any) -> Any:
        noise = torch.rand(3, 2, generator=self.torch_rng) + self.rng.random() + self.python_rng.random()
        loss = self.network(noise + self.old_rng.rand()).square().sum() + self.log_alpha.exp().sum()
        loss = loss + sum(alpha.exp().sum() for alpha in self.log_alphas)
        loss = loss + sum(member(noise).square().sum() for member in self.ensemble)
        for optimizer in (self._adam, *self._adams.values()):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (self._adam, *self._adams.values()):
            optimizer.step()
        self.scheduler.step()
        with torch.no_grad():
            self.pair.network.weight += 1
            self.named["a"].weight += 1
        self.pair = self.pair._replace(number=self.pair.number + 1)
        self.running += 1
        self.array = self.array + 1
        self.steps, self.is_warm, self.phase, self.best = self.steps + 1, True, "second", loss.item()
        self.losses.append(loss.item())
        self.history.append(self.running.clone())
        self.counts["updates"] += 1
        return {"loss": loss.item()}

    def get_actor(self) -> Any:
        return None


def facts(agent: Any) -> str:
    """Everything that is saved, as text with every digit."""
    torch.set_printoptions(precision=17)
    try:
        return str(agent.state_dict())
    finally:
        torch.set_printoptions("default")


def test_an_agent_with_everything_goes_on_as_if_it_had_not_stopped() -> None:
    agent, other = EveryKind(0), EveryKind(1)
    for _ in range(3):
        agent.train(None)
    state = agent.state_dict()
    check_state(state)
    other.load_state_dict(copy.deepcopy(state))
    assert facts(agent) == facts(other)
    for _ in range(3):
        assert agent.train(None) == other.train(None)
    assert facts(agent) == facts(other)


def test_what_is_shared_stays_shared_and_optimisers_keep_their_parameters() -> None:
    agent = EveryKind(1)
    before = {name: value for name, value in vars(agent).items() if hasattr(value, "state_dict")}
    alpha, members = agent.log_alpha, list(agent.ensemble)
    agent.load_state_dict(EveryKind(0).state_dict())
    assert all(getattr(agent, name) is value for name, value in before.items())
    assert agent.alias is agent.network
    assert agent.log_alpha is alpha
    assert all(member is old for member, old in zip(agent.ensemble, members, strict=True))
    assert any(parameter is alpha for parameter in agent._adam.param_groups[0]["params"])
    assert isinstance(agent.pair, Pair)


def test_spaces_devices_and_what_is_named_are_not_saved() -> None:
    saved = EveryKind(0).state_dict().keys()
    assert {"observation_space", "action_space", "device", "dtype", "place", "line"}.isdisjoint(saved)


def test_sac_goes_on_bit_by_bit() -> None:
    def batch(seed: int) -> Any:
        rng = torch.Generator().manual_seed(seed)
        obs, act, rew, new_obs = (torch.rand(8, n, generator=rng) for n in (2, 1, 1, 2))
        return obs, act, rew[:, 0], new_obs, torch.zeros(8), torch.zeros(8)

    torch.manual_seed(0)
    agent, other = (SACAgent(*SPACES, hidden=(8,)) for _ in range(2))
    for seed in range(5):
        agent.train(batch(seed))
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    for each in (agent, other):
        torch.manual_seed(7)
        for seed in range(5, 10):
            each.train(batch(seed))
    assert facts(agent) == facts(other)
    assert other.log_temperature.item() != 0.0


class Lazy(EveryKind):
    def train(self, batch: Any) -> Any:
        self.late = 1
        return super().train(batch)


def test_an_attribute_that_the_constructor_does_not_make_is_refused() -> None:
    agent = Lazy(0)
    agent.train(None)
    match = "Lazy must make every attribute in its constructor, but 'late' was saved and a new agent has none"
    with pytest.raises(ValueError, match=match):
        Lazy(0).load_state_dict(agent.state_dict())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("log_alpha", torch.zeros(2), r"log_alpha has the shape \(1,\), but was saved with \(2,\)"),
        ("log_alpha", None, r"log_alpha has the shape \(1,\), but was saved with \(\)"),
        ("ensemble", [1, 2, 3], "ensemble has 2 parts, but was saved with 3"),
        ("network", {"weight": 1}, "network is a Linear, but was saved as {'weight': 1}"),
        ("rng", 3, "rng is a Generator, but was saved as 3"),
        (
            "best",
            {"state_dict": {}},
            "best was saved as an object with a state, but a new agent has none there",
        ),
        (
            "history",
            [({"state_dict": {}},)],
            "history was saved as an object with a state, but a new agent has",
        ),
    ],
)
def test_state_of_another_shape_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EveryKind(0).load_state_dict({name: value})


def test_a_running_tensor_may_grow_and_what_is_not_in_the_state_stays() -> None:
    agent = EveryKind(0)
    agent.load_state_dict({"running": torch.ones(5)})
    assert agent.running.tolist() == [1.0] * 5
    assert agent.steps == 0
