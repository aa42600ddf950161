"""Environments by name, with the changes that make most of them fit for training."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

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
            f"a RolloutWorker steps one environment, got {type(env).__name__} of {lanes}; "
            "make one worker for each"
        )
    return env
