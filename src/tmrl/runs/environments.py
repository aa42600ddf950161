"""The environments of a run, by name, and the worker that steps them."""

from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tmrl.envs import AtariEnv, GenericGymEnv
from tmrl.runs.recipe import make_actor
from tmrl.runs.settings import ATARI
from tmrl.vector_worker import VectorWorker
from tmrl.worker import RolloutWorker


def make_env(env_id: str, is_test: bool = False) -> gymnasium.Env[Any, Any]:
    """Makes the environment of a run.

    Args:
        env_id: Its id.
        is_test: Whether rewards are those of the game, and not clipped as for training.

    Raises:
        ValueError: There is none of this id, or it needs a package that is missing.
    """
    try:
        if env_id.startswith(ATARI):
            return AtariEnv(env_id, clips_rewards=not is_test)
        return GenericGymEnv(env_id, to_float32=True)
    except gymnasium.error.DependencyNotInstalled as error:
        remedy = 'pip install "tmrl-memory[mujoco]"' if "mujoco" in str(error).lower() else str(error)
        raise ValueError(f"the environment {env_id} needs a package that is missing; {remedy}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(
            f"--env must be the id of a Gymnasium environment, got {env_id!r}: {error}; "
            'python -c "import gymnasium; gymnasium.pprint_registry()" lists them'
        ) from error


def make_worker(env_id: str, num_envs: int, agent: str, **options: Any) -> RolloutWorker | VectorWorker:
    """Makes a worker without a line, for one environment or for several side by side.

    Args:
        env_id: Id of the environment.
        num_envs: How many of it.
        agent: Whose policy acts.
        options: Further arguments of the worker.

    Raises:
        ValueError: The environment, or a space of it, does not suit.
    """
    env_cls, actor_cls = partial(make_env, env_id), partial(make_actor, agent)
    if num_envs == 1:
        return RolloutWorker(env_cls, actor_cls, standalone=True, **options)

    def make_envs() -> "SyncVectorEnv[Any, Any]":  # no generic class in Gymnasium 1.1
        # Each call steps each environment, and final observations are copied before the reset.
        return SyncVectorEnv([env_cls] * num_envs, autoreset_mode=AutoresetMode.DISABLED)

    return VectorWorker(make_envs, actor_cls, standalone=True, test_env_cls=env_cls, **options)
