"""VectorLanes: a `gymnasium.vector` environment as lanes, each with the episodes of a single environment.

A vector environment resets its lanes in one of three ways, and what a step returns depends on it:

- DISABLED: not at all; the caller does, lane by lane.
- SAME_STEP: within the step that ends the episode. That step returns the first observation of the next
  episode, and the final observation and info lie in `infos["final_obs"]` and `infos["final_info"]`.
- NEXT_STEP: in the step after, which ignores its action, and whose reward and flags mean nothing.

Here each lane has steps and starts, whatever the way: a start that the environment made beside a step, as
in SAME_STEP, waits until it is fetched, and a step that is none, as in NEXT_STEP, comes out as a start.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optree
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate

from tmrl.nest import as_array, flatten


class LaneStart(NamedTuple):
    """What a reset of one lane returned; arrays may be the environment's own, until it is stepped."""

    obs: Any
    info: dict[str, Any]


class LaneStep(NamedTuple):
    """What a step of one lane returned; arrays likewise."""

    obs: Any
    rew: Any
    terminated: Any
    truncated: Any
    info: dict[str, Any]


class VectorLanes:
    """Steps a vector environment lane by lane.

    Args:
        env: The vector environment; `env.metadata["autoreset_mode"]` says how its lanes are reset.
        seed: Of the first reset of lane 0; lane i has `seed + i`.

    Attributes:
        env: As given.
        resetting: Lanes that the next step resets, and does not step.

    Raises:
        TypeError: It is a single environment.
        ValueError: It does not say how its lanes are reset.
    """

    def __init__(self, env: Any, seed: int | None = None) -> None:
        n_lanes = getattr(env, "num_envs", None)
        if n_lanes is None:
            raise TypeError(
                f"a VectorWorker steps a gymnasium.vector environment, got {type(env).__name__}; "
                "use a RolloutWorker for a single one"
            )
        self.env = env
        self.resetting: frozenset[int] = frozenset()
        self._n = int(n_lanes)
        self._mode = _autoreset_mode(env)
        self._seed = seed
        self._starts: dict[int, LaneStart] = {}

    def __len__(self) -> int:
        return self._n

    @property
    def can_reset_one(self) -> bool:
        """Whether lanes can be reset one by one while others go on."""
        is_known = isinstance(self.env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        return is_known or self._mode is AutoresetMode.DISABLED

    def default_action(self, lane: int) -> Any:
        """The action of a lane's reset samples: `default_action` of its environment if it has one."""
        base = self.env.unwrapped
        env = base.envs[lane].unwrapped if isinstance(base, SyncVectorEnv) else base
        return getattr(env, "default_action", None)

    def fetch_starts(self) -> dict[int, LaneStart]:
        """The starts, by lane, that the environment made by itself beside the last step."""
        starts, self._starts = self._starts, {}
        return starts

    def reset(self, lanes: Collection[int]) -> dict[int, LaneStart]:
        """Resets lanes; all of them at once if it is all, or if the environment cannot do it one by one.

        Returns:
            The start of each lane that was reset.
        """
        if len(lanes) < self._n and self.can_reset_one:
            mask = np.zeros(self._n, np.bool_)
            mask[list(lanes)] = True
            obs, infos = self.env.reset(options={"reset_mask": mask})
        else:
            lanes = range(self._n)
            self.resetting = frozenset()
            obs, infos = self.env.reset() if self._seed is None else self.env.reset(seed=self._seed)
            self._seed = None
        rows = self._rows(obs)
        return {lane: LaneStart(rows[lane], lane_info(infos, lane)) for lane in lanes}

    def step(self, acts: Sequence[Any]) -> list[LaneStep | LaneStart]:
        """Steps every lane.

        Args:
            acts: One for each lane; those of lanes that are `resetting` are ignored.

        Raises:
            ValueError: A final observation is missing, or the reset has written into it.
        """
        resetting, self.resetting = self.resetting, frozenset()
        obs, rew, terminated, truncated, infos = self.env.step(_stacked(acts))
        arrivals: list[LaneStep | LaneStart] = []
        done: list[int] = []
        for lane, row in enumerate(self._rows(obs)):
            info = lane_info(infos, lane)
            if lane in resetting:
                arrivals.append(LaneStart(row, info))
                continue
            if terminated[lane] or truncated[lane]:
                done.append(lane)
                if self._mode is AutoresetMode.SAME_STEP:
                    row, info = self._split(lane, row, info, infos)  # noqa: PLW2901
            arrivals.append(LaneStep(row, rew[lane], terminated[lane], truncated[lane], info))
        if self._mode is AutoresetMode.NEXT_STEP:
            self.resetting = frozenset(done)
        return arrivals

    def _rows(self, obs: Any) -> list[Any]:
        return list(iterate(self.env.observation_space, obs))

    def _split(self, lane: int, row: Any, info: dict[str, Any], infos: Any) -> tuple[Any, dict[str, Any]]:
        """The end of an episode; the start of the next, which came with it, is kept."""
        if "final_obs" not in infos:
            raise ValueError(
                f"{self.env} resets a lane within the step, and must put its final observation into "
                'infos["final_obs"], got none; make it with another autoreset_mode'
            )
        final = infos["final_obs"]
        is_each = isinstance(final, np.ndarray) and final.dtype == object
        obs = final[lane] if is_each else self._rows(final)[lane]
        self._check_is_final(lane, obs, row)
        final_info = info.pop("final_info", {})
        info.pop("final_obs", None)
        self._starts[lane] = LaneStart(row, info)
        return obs, final_info

    def _check_is_final(self, lane: int, obs: Any, start_obs: Any) -> None:
        """Neither of Gymnasium's environments copies it before the reset, which writes into reused arrays."""
        base = self.env.unwrapped
        finals = flatten(obs)[0]
        if isinstance(base, AsyncVectorEnv):
            # The arrays are out of sight; they are suspect if the reset left nothing different.
            pairs = zip(finals, flatten(start_obs)[0], strict=True)
            is_suspect = all(np.array_equal(one, other) for one, other in pairs)
        else:
            newest = getattr(base, "_env_obs", [None] * self._n)[lane]
            starts = flatten(newest)[0]
            is_suspect = any(isinstance(one, np.ndarray) and _is_in(one, starts) for one in finals)
        if is_suspect:
            raise ValueError(
                f"lane {lane} of {self.env} seems to reuse its arrays, so that the reset within the step may "
                "have overwritten the final observation; make the vector environment with "
                "autoreset_mode=AutoresetMode.DISABLED or NEXT_STEP, or return copies"
            )


def _is_in(array: Any, others: Sequence[Any]) -> bool:
    return any(np.shares_memory(array, other) for other in others)


def _autoreset_mode(env: Any) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise ValueError(  # noqa: TRY004 - of an entry that the environment lacks
            f'the metadata["autoreset_mode"] of {env} must be an AutoresetMode, got {mode!r}; without it '
            "nobody knows which observations are final: set it where the environment is made"
        )
    return mode


def _stacked(acts: Sequence[Any]) -> Any:
    """Actions as a batch; unlike `gymnasium.vector.utils.concatenate`, without a cast to the space."""
    return optree.tree_map(lambda *leaves: np.stack([as_array(leaf)[0] for leaf in leaves]), *acts)


def single_spaces(env: Any) -> tuple[Any, Any]:
    """The observation and action spaces of an environment, or of one lane of a vector environment."""
    observation_space = getattr(env, "single_observation_space", env.observation_space)
    return observation_space, getattr(env, "single_action_space", env.action_space)


def lane_info(infos: Mapping[str, Any], lane: int) -> dict[str, Any]:
    """The info of one lane, from what `VectorEnv` makes of those of all.

    Args:
        infos: Beside each entry `key` an array `_key` of bools, which lanes have it; all have one without.
            Entries of entries are nested in the same way.
        lane: Which lane.

    Returns:
        Arrays are views; a number is a NumPy number of the dtype that the vector environment gave it.
    """
    masks = {f"_{key}" for key in infos}
    return {
        key: _of_lane(values, lane)
        for key, values in infos.items()
        if not (key in masks and _is_mask(values)) and _has(infos, key, lane)
    }


def _of_lane(values: Any, lane: int) -> Any:
    if isinstance(values, Mapping):
        return lane_info(values, lane)
    return values[lane] if getattr(values, "shape", ()) else values


def _is_mask(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.dtype == np.bool_


def _has(infos: Mapping[str, Any], key: str, lane: int) -> bool:
    mask: Any = infos.get(f"_{key}")
    return bool(mask[lane]) if _is_mask(mask) else True
