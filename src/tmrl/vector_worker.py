"""VectorWorker: acts in many environments at once, those of a `gymnasium.vector` environment.

Each of them is a lane, and a stream of its own: what lane i of the worker `robot` sends is what a
`RolloutWorker` named `robot/i` would send from the same environment, seed and actions, bit by bit, however
the vector environment resets its lanes. The final observation is sent; a step whose action was ignored
because it was a reset is not.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.fed_worker import FedWorker
from tmrl.frames import stacked_space
from tmrl.history import History
from tmrl.lane import Lane, SampleRules, checked_limit, worker_name
from tmrl.policy_feed import PolicyFeed, check_has_line
from tmrl.policy_files import PolicyFiles
from tmrl.sink import Sink
from tmrl.stamping import owned
from tmrl.vector_env import LaneStart, VectorLanes, single_spaces
from tmrl.worker import RolloutWorker


class VectorWorker(FedWorker):
    """Acts in all lanes of a vector environment and collects samples, as a `RolloutWorker` does in one.

    The policy is asked lane by lane, because a batch of several may be computed with other roundings than
    each alone. A policy that has `act_batch(observations, test=False)` is given the list of the
    observations instead, and returns their actions in the same order.

    Arguments that are not listed are those of `RolloutWorker`, for each lane.

    Args:
        env_cls: Makes the vector environment.
        actor_module_cls: As for `RolloutWorker`, for the spaces of a single lane.
        max_samples_per_episode: Steps after which an episode is truncated and its lane reset, while the
            others go on.
        worker_id: As for `RolloutWorker`. Lane i has the name `{worker_id}/{i}` in stamps and statistics.
        seed: Seed of the first reset of lane 0; lane i has `seed + i`, and test episodes `seed + num_envs`.
        test_env_cls: Makes a single environment for test episodes.

    Attributes:
        env: The vector environment.
        buffer: What was collected and not sent.
        max_samples_per_episode: As given.

    Raises:
        TypeError: The environment is a single one.
        ValueError: The environment does not say how its lanes are reset, or an argument does not suit.
    """

    def __init__(
        self,
        env_cls: Callable[[], Any],
        actor_module_cls: Callable[..., ActorModule],
        sample_compressor: Callable[..., tuple[Any, ...]] | None = None,
        device: Any = "cpu",
        max_samples_per_episode: float = np.inf,
        model_path: str | Path | None = None,
        obs_preprocessor: Callable[[Any], Any] | None = None,
        crc_debug: bool = False,
        model_path_history: str | Path | None = None,
        model_history: int = 0,
        standalone: bool = False,
        *,
        worker_id: str | None = None,
        source: str = "online",
        crc_samples: bool = False,
        sink: Sink | None = None,
        seed: int | None = None,
        allow_pickle: bool = False,
        wait_limit_s: float = 600.0,
        frame_stack: int = 1,
        history: History | None = None,
        test_env_cls: Callable[[], Any] | None = None,
    ) -> None:
        check_has_line("VectorWorker", sink, standalone)
        self._rules = SampleRules(
            sample_compressor, obs_preprocessor, crc_debug, crc_samples, source, frame_stack, history
        )
        self.max_samples_per_episode = checked_limit("max_samples_per_episode", max_samples_per_episode)
        name = worker_name(worker_id)
        self.buffer = Buffer()
        files = PolicyFiles(model_path, model_path_history, model_history, allow_pickle)
        self.env = env_cls()
        self._envs = VectorLanes(self.env, seed)
        if max_samples_per_episode < np.inf and not self._envs.can_reset_one:
            raise ValueError(
                f"max_samples_per_episode resets single lanes, which {self.env} cannot, got "
                f"{max_samples_per_episode}; limit the episodes in the environment"
            )
        self._lanes = [Lane(f"{name}/{i}", self._rules) for i in range(len(self._envs))]
        self._acts: list[Any] = [None] * len(self._lanes)
        observation_space, action_space = single_spaces(self.env)
        actor = actor_module_cls(
            observation_space=stacked_space(observation_space, frame_stack), action_space=action_space
        )
        self._feed = PolicyFeed(name, actor, device, files, sink, wait_limit_s)
        self._test_env_cls = test_env_cls
        self._test_seed = None if seed is None else seed + len(self._lanes)
        self._tester: RolloutWorker | None = None

    @property
    def num_envs(self) -> int:
        """How many lanes there are."""
        return len(self._lanes)

    @property
    def can_test(self) -> bool:
        """Whether a test episode would cut no training episode; always, they have an environment each."""
        return True

    # Training episodes.

    def collect_steps(self, nb_steps: int) -> int:
        """Steps all lanes, going on with their episodes; where one ends the next begins.

        Args:
            nb_steps: Steps of the vector environment, each of all lanes. Resets are not counted, except those
                that a NEXT_STEP environment makes instead of a step.

        Returns:
            How many samples they made, in all lanes, with the resets.
        """
        return sum(self._collect_next() for _ in range(nb_steps))

    def _collect_next(self) -> int:
        """Collects one step of all lanes, and the resets before it."""
        n_resets = self._start_lanes()
        self._step_lanes()
        return n_resets + len(self._lanes)

    def _start_lanes(self) -> int:
        """Collects the starts that came with the last step, and resets the lanes that have no episode."""
        starts = self._envs.fetch_starts()
        for i, start in starts.items():
            self._lanes[i].begin()
            self._collect_start(i, start)
        return len(starts) + self._reset_lanes()

    def _reset_lanes(self) -> int:
        due = [i for i, lane in enumerate(self._lanes) if not lane.is_open and i not in self._envs.resetting]
        if not due:
            return 0
        for i in due if self._envs.can_reset_one else range(len(self._lanes)):
            self._lanes[i].begin()
        starts = self._envs.reset(due)
        for i, start in starts.items():
            self._collect_start(i, start)
        return len(starts)

    def _step_lanes(self) -> None:
        resetting = self._envs.resetting
        stepping = [i for i in range(len(self._lanes)) if i not in resetting]
        self._act(stepping)
        for i, lane in enumerate(self._lanes):
            if i in resetting:
                lane.begin()
            else:
                lane.advance(self._acts[i])
        for i, arrival in enumerate(self._envs.step(self._acts)):
            if isinstance(arrival, LaneStart):
                self._collect_start(i, arrival)
                continue
            obs, rew, terminated, truncated, info = arrival
            lane = self._lanes[i]
            lane.arrive(obs, rew)
            if lane.episode_step >= self.max_samples_per_episode and not terminated:
                truncated = True
            lane.collect(self.buffer, self.policy_version, rew, terminated, truncated, info)

    def _act(self, stepping: list[int]) -> None:
        """Asks the policy for the actions of some lanes; those of the others stay."""
        lanes = [self._lanes[i] for i in stepping]
        act_batch = getattr(self.actor, "act_batch", None)
        if act_batch is None:
            acts = [owned(self.actor.act_(lane.look(lane.obs), test=False)) for lane in lanes]
        else:
            acts = [owned(act) for act in act_batch([lane.look(lane.obs) for lane in lanes], test=False)]
        for i, act in zip(stepping, acts, strict=True):
            self._acts[i] = act

    def _collect_start(self, i: int, start: LaneStart) -> None:
        lane = self._lanes[i]
        lane.start(start.obs, self._envs.default_action(i))
        lane.collect(self.buffer, self.policy_version, 0.0, False, False, start.info)

    # Test episodes.

    def run_episode(self, max_samples: float | None = None, train: bool = False) -> None:
        """Runs one episode in the environment for tests, and notes its return and length.

        Args:
            max_samples: Steps after which it is left; `max_samples_per_episode` by default.
            train: Whether to act with exploration.

        Raises:
            ValueError: There is no environment for tests.
        """
        if self._tester is None:
            self._tester = self._make_tester()
        self._tester.actor = self.actor
        self._tester.run_episode(self.max_samples_per_episode if max_samples is None else max_samples, train)
        for record in self._tester.buffer.episodes:
            self.buffer.record_episode(replace(record, policy_version=self.policy_version))
        self._tester.buffer.clear()

    def _make_tester(self) -> RolloutWorker:
        if self._test_env_cls is None:
            raise ValueError(
                "a VectorWorker tests in a single environment of its own, got none; pass test_env_cls="
            )
        return RolloutWorker(
            self._test_env_cls,
            self._given_actor,
            device=self._feed.device,
            obs_preprocessor=self._rules.obs_preprocessor,
            standalone=True,
            worker_id=self.worker_id,
            seed=self._test_seed,
            frame_stack=self._rules.frame_stack,
        )

    def _given_actor(self, **_: Any) -> ActorModule:
        """Stands for the class of an actor that exists already."""
        return self.actor

    # The loop.

    def _collect_episodes(self, verbose: bool) -> int:
        return self._collect_and_send(np.inf, end_episodes=True, verbose=verbose)[1]

    def _close_envs(self) -> None:
        self.env.close()
        if self._tester is not None:
            self._tester.close()
