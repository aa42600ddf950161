"""What the flags of a run stand for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from recordings import schema_like
from tmrl import memory
from tmrl.agents import DQNActor, DQNAgent, REDQAgent, SACAgent, SquashedGaussianActor
from tmrl.agents.networks import EnsembleLayerNorm
from tmrl.datasets import DatasetWriter, Episode
from tmrl.memory import History, Stacked
from tmrl.runs.recipe import agent_name, make_actor, make_agent, make_memory, sampler_and_window
from tmrl.runs.settings import TrainSettings
from tmrl.schema import Schema

OBS, BOX, NUMBERED = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,)), spaces.Discrete(2)


class Noting:
    """Stands for a sampler or a window, and notes what it was made with."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options


@pytest.fixture
def noting(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Noting]]:
    classes = {name: type(name, (Noting,), {}) for name in ("Prioritized", "Mixture", "NStep", "FrameStack")}
    for name, cls in classes.items():
        monkeypatch.setattr(memory, name, cls, raising=False)
    return classes


def agent_of(action_space: Any, **settings: Any) -> Any:
    return make_agent(TrainSettings(**settings), OBS, action_space, "cpu")


def test_the_agent_follows_from_the_actions_unless_it_is_named() -> None:
    assert agent_name("auto", BOX) == "sac"
    assert agent_name("auto", NUMBERED) == "dqn"
    assert agent_name("redq", BOX) == "redq"
    assert type(agent_of(BOX)) is SACAgent
    assert type(agent_of(BOX, agent="redq")) is REDQAgent
    assert type(agent_of(NUMBERED)) is DQNAgent
    assert type(make_actor("redq", OBS, BOX)) is SquashedGaussianActor
    assert type(make_actor("auto", OBS, NUMBERED)) is DQNActor


def test_the_default_run_is_as_it_was_before_there_were_other_agents() -> None:
    """The same networks from the same random numbers, with nothing new in them."""
    torch.manual_seed(0)
    found = agent_of(BOX)
    torch.manual_seed(0)
    expected = SACAgent(OBS, BOX, "cpu", lr=1e-3)
    assert list(found.critics.state_dict()) == list(expected.critics.state_dict())
    assert len(list(found.critics.parameters())) == 6
    assert torch.equal(found.critics.layers[0].weight, expected.critics.layers[0].weight)
    assert sampler_and_window(TrainSettings(), {}) == {}
    settings = TrainSettings()
    assert (settings.rate, settings.ratio, settings.stack, settings.updates) == (1e-3, 1.0, 1, 7500)


def test_demonstrations_in_each_batch_come_with_normalised_critics() -> None:
    """RLPD: Ball et al. 2023."""
    for agent in ("sac", "redq"):
        made = agent_of(BOX, agent=agent, demo_fraction=0.5)
        assert isinstance(getattr(made, "sac", made).critics.norms[0], EnsembleLayerNorm)


def test_redq_takes_as_many_updates_a_step_as_the_policy_waits_for() -> None:
    assert TrainSettings(agent="redq", steps=600).updates == 2000
    assert agent_of(BOX, agent="redq").sac.policy_delay == 20
    assert agent_of(BOX, agent="redq", updates_per_step=5.0).sac.policy_delay == 5
    assert TrainSettings(updates_per_step=0.5).updates == 3750


def test_games_of_ale_have_defaults_of_their_own() -> None:
    settings = TrainSettings(env="ALE/Pong-v5")
    assert (settings.rate, settings.ratio, settings.stack) == (1e-4, 0.25, 4)
    settings = TrainSettings(env="ALE/Pong-v5", learning_rate=1e-3, updates_per_step=1.0, frame_stack=2)
    assert (settings.rate, settings.ratio, settings.stack) == (1e-3, 1.0, 2)


def test_exploration_ends_after_a_tenth_of_the_updates() -> None:
    assert agent_of(NUMBERED, steps=20_500).epsilon_updates == 2000


def test_priorities_are_weighed_in_full_at_the_end_of_the_run(noting: Any) -> None:
    sampler = sampler_and_window(TrainSettings(prioritized=True), {})["sampler"]
    assert type(sampler) is noting["Prioritized"]
    assert sampler.options == {"beta_steps": 7500}


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_fraction_of_demonstrations_is_a_mixture(prioritized: bool, noting: Any) -> None:
    settings = TrainSettings(demo_fraction=0.25, prioritized=prioritized)
    mixture = sampler_and_window(settings, {"demo": 7})["sampler"]
    shares, samplers = mixture.arguments
    assert shares == {"online": 0.75, "demo": 0.25}
    assert list(samplers) == (["online", "demo"] if prioritized else [])
    assert mixture.options == {"empty": "others", "keep": {"demo": 7}}


def test_windows_are_those_of_the_flags(noting: Any) -> None:
    n_step = sampler_and_window(TrainSettings(n_step=3), {})["window"]
    assert (type(n_step), n_step.arguments) == (noting["NStep"], (3, 0.99))
    assert n_step.options == {"stack": None}
    both = sampler_and_window(TrainSettings(n_step=3, frame_stack=2), {})["window"]
    assert (type(both), both.options["stack"].arguments) == (noting["NStep"], (2,))
    stack = sampler_and_window(TrainSettings(env="ALE/Pong-v5"), {})["window"]
    assert (type(stack), stack.arguments) == (noting["FrameStack"], (4,))


def test_settings_of_an_earlier_version_stand_for_the_same_run() -> None:
    old = {"env": "Pendulum-v1", "learning_rate": 0.001, "versions": {}}
    settings = TrainSettings.from_config(old, Path("runs/one"))
    assert (settings.agent, settings.rate, settings.ratio) == ("auto", 0.001, 1.0)
    assert np.isclose(settings.updates, 7500)


def recorded(folder: Path, n_episodes: int) -> str:
    """A dataset of episodes of four steps."""
    schema = schema_like(np.zeros(3, np.float32), np.zeros(1, np.float32))
    with DatasetWriter(folder, schema) as writer:
        for _ in range(n_episodes):
            writer.write(Episode(np.zeros(5, schema.row_dtype), "ann", "robot"))
    return str(folder)


def test_demonstrations_take_the_room_of_the_memory_that_they_need(tmp_path: Path) -> None:
    demos = recorded(tmp_path, 3)
    settings = TrainSettings(demos=demos, demo_fraction=0.5, memory_size=100)
    made = make_memory(settings, (OBS, BOX))
    assert made.sampler.keep == {"demo": 14}
    assert (len(made), made.memory_size) == (12, 100)
    assert make_memory(TrainSettings(demos=demos, memory_size=100), (OBS, BOX)).sampler.keep == {}
    with pytest.raises(ValueError, match=r"--memory-size must be above the 14 transitions .* got 14; choose"):
        make_memory(replace(settings, memory_size=14), (OBS, BOX))


def test_a_run_that_goes_on_keeps_what_it_kept_and_needs_no_demonstrations() -> None:
    settings = TrainSettings(demos="moved elsewhere", demo_fraction=0.5)
    for kept in ({"demo": 14}, {}):  # nothing, if an earlier version began it
        assert make_memory(settings, (OBS, BOX), kept).sampler.keep == kept
    with pytest.raises(ValueError, match=r"--memory-size must be above the 14 transitions .* got 9; choose"):
        make_memory(replace(settings, memory_size=9), (OBS, BOX), {"demo": 14})


def test_what_cannot_be_made_whole_is_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    single = schema_like(np.zeros(2, np.float32), np.zeros(1, np.float32))
    schema = Schema(single.obs, single.act, history=History(Stacked(3)))
    with DatasetWriter(tmp_path, schema) as writer:
        writer.write(Episode(np.zeros(6, schema.row_dtype), "ann", "robot", begins=False))
    space = spaces.Box(-1, 1, (3, 2))
    made = make_memory(TrainSettings(demos=str(tmp_path)), (space, BOX))
    assert len(made) == 3
    assert made.stats().sources["demo"].rows == 4
    assert f"left out of {tmp_path}: 2 samples after a gap" in caplog.text
