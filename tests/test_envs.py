"""GenericGymEnv."""

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tmrl.envs import AtariEnv, GenericGymEnv


class Nested(gymnasium.Env[Any, Any]):
    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict(
        a=spaces.Box(-1.0, 1.0, (2,), np.float64),
        b=spaces.Tuple([spaces.Box(0, 255, (2,), np.uint8), spaces.Discrete(3)]),
    )

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return {"a": np.ones(2), "b": (np.ones(2, np.uint8), 1)}, {}

    def step(self, action: Any) -> Any:
        return self.reset()[0], 0.0, False, False, {}


@pytest.fixture(autouse=True)
def nested_is_registered() -> Any:
    gymnasium.register("TmrlNested-v0", entry_point=Nested)
    yield
    del gymnasium.registry["TmrlNested-v0"]


def test_an_environment_is_made_by_name_with_its_arguments() -> None:
    with GenericGymEnv("Pendulum-v1", gym_kwargs={"g": 5.0, "max_episode_steps": 7}) as env:
        assert env.unwrapped.g == 5.0
        assert env.spec is not None
        assert env.spec.max_episode_steps == 7


def test_the_default_environment_exists() -> None:
    with GenericGymEnv() as env:
        assert env.unwrapped.spec.id == "Pendulum-v1"


@pytest.mark.parametrize("scale", [0.5, -2.0])
def test_observations_and_their_space_are_scaled(scale: float) -> None:
    with GenericGymEnv(obs_scale=scale) as env, GenericGymEnv() as plain:
        obs, expected = env.reset(seed=0)[0], plain.reset(seed=0)[0]
        assert np.array_equal(obs, expected * scale)
        obs, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs)
        assert env.observation_space.high[2] == 8.0 * abs(scale)


def test_only_a_box_can_be_scaled() -> None:
    with pytest.raises(TypeError, match="obs_scale needs a Box of observations, got Dict"):
        GenericGymEnv("TmrlNested-v0", obs_scale=2.0)


def test_float64_becomes_float32_in_nests_and_nothing_else_changes() -> None:
    with GenericGymEnv("TmrlNested-v0", to_float32=True) as env:
        obs, _ = env.reset()
        assert env.observation_space.contains(obs)
        assert (obs["a"].dtype, obs["b"][0].dtype, obs["b"][1]) == (np.float32, np.uint8, 1)


@pytest.mark.parametrize("clips_rewards", [True, False])
def test_games_of_ale_show_single_grey_frames(clips_rewards: bool) -> None:
    """Where the extra is installed; Space Invaders pays 5 to 30 points a hit."""
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    with AtariEnv("ALE/SpaceInvaders-v5", clips_rewards=clips_rewards) as env:
        env.action_space.seed(0)
        obs, _ = env.reset(seed=0)
        rewards = []
        while sum(rewards) < 5:
            assert (obs.shape, obs.dtype) == ((84, 84), np.uint8)
            obs, rew, *_ = env.step(env.action_space.sample())
            rewards.append(float(rew))
    assert (max(rewards) == 1.0) == clips_rewards


def test_games_of_ale_without_their_extra_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match=r'pip install "tmrl-memory\[atari\]"'):
        AtariEnv()
