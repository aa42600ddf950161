"""Environments by name, with the changes that make most of them fit for training.

- `GenericGymEnv`: any registered environment.
- `AtariEnv`: a game of the Arcade Learning Environment, as agents that learn from its frames see it.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import AtariPreprocessing, TransformObservation, TransformReward

from tmrl.nest import flatten, unflatten


class GenericGymEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """`gymnasium.make` as a class, for `env_cls`.

    Args:
        id: Name of a registered environment.
        gym_kwargs: Keyword arguments of `gymnasium.make`.
        obs_scale: Factor for observations, which then must be a `Box`; 0 leaves them alone.
        to_float32: Casts float64 observations to float32, in nests of `Dict` and `Tuple` too.
    """

    def __init__(
        self,
        id: str = "Pendulum-v1",  # noqa: A002 - the documented name
        gym_kwargs: Mapping[str, Any] | None = None,
        obs_scale: float = 0.0,
        to_float32: bool = False,
    ) -> None:
        env: gymnasium.Env[Any, Any] = gymnasium.make(
            id, **{"disable_env_checker": True, **(gym_kwargs or {})}
        )
        if obs_scale:
            env = TransformObservation(env, lambda obs: obs * obs_scale, _scaled(env, obs_scale))
        if to_float32:
            env = TransformObservation(env, _to_float32, _map_boxes(env.observation_space, _box_to_float32))
        super().__init__(env)


class AtariEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A game of the Arcade Learning Environment, one `(84, 84)` uint8 frame an observation.

    The changes are those of Mnih et al. 2015 (Nature 518, "Preprocessing" and "Training details"): grey
    frames of 84 x 84, the maximum of the last two of the 4 frames for which an action is repeated, up to 30
    idle steps at the start, and rewards clipped to their sign. A lost life ends no episode. Frames are not
    stacked here: each travels and is stored once, and `frame_stack=4` of the worker and `FrameStack(4)` of
    the memory stack them.

    Args:
        id: Such as `ALE/Pong-v5`.
        clips_rewards: Whether rewards are -1, 0 and 1; returns are those of the game otherwise.

    Raises:
        gymnasium.error.DependencyNotInstalled: ale-py or OpenCV is missing; the message has the remedy.
    """

    def __init__(self, id: str = "ALE/Pong-v5", clips_rewards: bool = True) -> None:  # noqa: A002
        try:
            ale_py = import_module("ale_py")
            import_module("cv2")
        except ImportError as error:
            raise gymnasium.error.DependencyNotInstalled('pip install "tmrl-memory[atari]"') from error
        gymnasium.register_envs(ale_py)
        env: gymnasium.Env[Any, Any] = gymnasium.make(id, frameskip=1, disable_env_checker=True)
        env = AtariPreprocessing(env, noop_max=30, frame_skip=4, screen_size=84, grayscale_obs=True)
        super().__init__(TransformReward(env, _sign) if clips_rewards else env)


def _sign(rew: Any) -> float:
    return float(np.sign(rew))


def _scaled(env: gymnasium.Env[Any, Any], scale: float) -> spaces.Box:
    space = env.observation_space
    if not isinstance(space, spaces.Box):
        raise TypeError(
            f"obs_scale needs a Box of observations, got {space}; leave it 0 and scale in an obs_preprocessor"
        )
    ends = np.stack([space.low * scale, space.high * scale])
    return spaces.Box(ends.min(axis=0), ends.max(axis=0), dtype=ends.dtype.type)


def _map_boxes(space: spaces.Space[Any], change: Callable[[spaces.Box], spaces.Box]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _map_boxes(part, change) for key, part in space.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_map_boxes(part, change) for part in space])
    return change(space) if isinstance(space, spaces.Box) else space


def _box_to_float32(box: spaces.Box) -> spaces.Box:
    if box.dtype != np.float64:
        return box
    return spaces.Box(box.low.astype(np.float32), box.high.astype(np.float32), dtype=np.float32)


def _to_float32(obs: Any) -> Any:
    leaves, treespec = flatten(obs)
    return unflatten(treespec, [_leaf_to_float32(leaf) for leaf in leaves])


def _leaf_to_float32(leaf: Any) -> Any:
    is_float64 = getattr(leaf, "dtype", None) == np.float64
    return leaf.astype(np.float32) if is_float64 else leaf


def single_env(env: Any) -> gymnasium.Env[Any, Any]:
    """The environment that a worker steps, as it was given.

    Raises:
        TypeError: It is several in one.
    """
    lanes = getattr(env, "num_envs", None)
    if lanes is not None:
        raise TypeError(
            f"a RolloutWorker steps one environment, got {type(env).__name__} of {lanes}; use a VectorWorker"
        )
    return env


def measure_of(env: gymnasium.Env[Any, Any]) -> Callable[[], Mapping[str, Any]]:
    """What a real-time environment measures of itself.

    Raises:
        ValueError: It measures nothing.
    """
    measure = getattr(env.unwrapped, "benchmarks", None)
    if measure is None:
        raise ValueError(
            "run_env_benchmark needs an environment with benchmarks(), as rtgym's have, "
            f"got {env.unwrapped}; measure it another way"
        )
    return measure
