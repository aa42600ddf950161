"""RolloutWorker: acts in an environment, collects samples, hands them to a sink.

    env --> lane: what the policy sees --> actor --> env ...
                `--> a sample for each reset and step --> buffer --> sink

A worker knows no network. What stands between it and its trainer is a `Sink`; a `standalone` worker has none
and keeps its samples in its `buffer`. How samples are made is the business of its `Lane`, where policies come
from that of its `PolicyFeed`.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.envs import measure_of, single_env
from tmrl.fed_worker import FedWorker
from tmrl.frames import stacked_space
from tmrl.history import History
from tmrl.lane import Lane, SampleRules, checked_limit, worker_name
from tmrl.policy_feed import PolicyFeed, check_has_line
from tmrl.policy_files import PolicyFiles
from tmrl.sink import Sink
from tmrl.stamping import owned

logger = logging.getLogger(__name__)


class RolloutWorker(FedWorker):
    """Acts in one environment and collects samples, one for each reset and one for each step.

    Args:
        env_cls: Makes the environment; for a vector environment there is `VectorWorker`.
        actor_module_cls: Makes the policy, called with `observation_space` and `action_space`.
        sample_compressor: Called with `act, obs, rew, terminated, truncated, info` for every sample; returns
            the tuple to send.
        device: Where the policy computes.
        max_samples_per_episode: Steps after which an episode is truncated.
        model_path: Policy file: read at the start if it exists, written whenever a policy arrives.
        obs_preprocessor: Applied to every observation before the policy, the compressor and CRC see it.
        crc_debug: Puts the checksums of every transition into `info["crc"]`.
        model_path_history: What the names of the files of old policies begin with.
        model_history: Every how many policies one is kept; 0 keeps none.
        standalone: Whether the worker works without a sink and keeps its samples in `buffer`.
        worker_id: Name, unique among the workers that feed one memory; by default the machine's, and eight
            random characters.
        source: Label of where the samples come from; `info["source"]` of a reset or step overrides it.
        crc_samples: With `crc_debug`, writes the older `info["crc_sample"]` and `info["crc_sample_ts"]` too.
        sink: The line to the trainer.
        seed: Seed of the first `env.reset()`.
        allow_pickle: Whether `model_path` may be a pickle, which runs whatever it says.
        wait_limit_s: Longest wait for a policy.
        frame_stack: How many observations the policy sees, the last of its episode, each leaf `(k, ...)`. The
            samples hold single ones, and a memory's `FrameStack` stacks them alike. 1 does not stack.
        history: What to leave out of observations, instead of a `sample_compressor`; the memory needs it too.

    Attributes:
        env: The environment.
        buffer: What was collected and not sent.
        device: As given.
        max_samples_per_episode: As given; may be changed.
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
    ) -> None:
        check_has_line("RolloutWorker", sink, standalone)
        self._rules = SampleRules(
            sample_compressor, obs_preprocessor, crc_debug, crc_samples, source, frame_stack, history
        )
        self.max_samples_per_episode = checked_limit("max_samples_per_episode", max_samples_per_episode)
        self.device = device
        self.buffer = Buffer()
        self._files = PolicyFiles(model_path, model_path_history, model_history, allow_pickle)
        self._lane = Lane(worker_name(worker_id), self._rules)
        self.env = single_env(env_cls())
        actor = actor_module_cls(
            observation_space=stacked_space(self.env.observation_space, frame_stack),
            action_space=self.env.action_space,
        )
        self._feed = PolicyFeed(self._lane.name, actor, device, self._files, sink, wait_limit_s)
        self._seed = seed

    @property
    def model_path(self) -> Path | None:
        """File of the newest policy."""
        return self._files.newest

    @property
    def obs_preprocessor(self) -> Callable[[Any], Any] | None:
        """What is applied to every observation first."""
        return self._rules.obs_preprocessor

    @property
    def get_local_buffer_sample(self) -> Callable[..., tuple[Any, ...]] | None:
        """The `sample_compressor`."""
        return self._rules.sample_compressor

    @property
    def num_envs(self) -> int:
        """How many environments it steps: 1."""
        return 1

    @property
    def can_test(self) -> bool:
        """Whether a test episode would cut no training episode."""
        return not self.is_episode_open

    @property
    def is_episode_open(self) -> bool:
        """Whether a training episode has begun and is not done; `collect_steps` would continue it."""
        return self._lane.is_open

    # One reset, one step.

    def act(self, obs: Any, test: bool = False) -> Any:
        """The policy's action; `test` acts as in deployment."""
        return self.actor.act_(obs, test=test)

    def reset(self, collect_samples: bool) -> tuple[Any, dict[str, Any]]:
        """Resets the environment.

        Args:
            collect_samples: Whether to put the reset sample into `buffer`. Its action is the environment's
                `default_action` if it has one (real-time environments do), else None.

        Returns:
            The preprocessed observation and the info, as the environment returned them.
        """
        self._lane.begin()
        obs, info = self.env.reset() if self._seed is None else self.env.reset(seed=self._seed)
        self._seed = None
        obs = self._lane.start(obs, getattr(self.env.unwrapped, "default_action", None))
        if collect_samples:
            self._collect(0.0, False, False, info)
        return obs, info

    def step(
        self, obs: Any, test: bool, collect_samples: bool, last_step: bool = False
    ) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Acts on `obs` and steps the environment.

        Args:
            obs: What `reset` or `step` returned last.
            test: Whether to act as in deployment.
            collect_samples: Whether to put the sample into `buffer`.
            last_step: Whether to truncate the episode here, if it is collected and did not terminate.

        Returns:
            The preprocessed observation, reward, terminated, truncated and info.
        """
        act = self.act(self._lane.look(obs, collect_samples), test=test)
        self._lane.advance(owned(act) if collect_samples else None)
        obs, rew, terminated, truncated, info = self.env.step(act)
        obs = self._lane.arrive(obs, rew)
        if collect_samples:
            if last_step and not terminated:
                truncated = True
            self._collect(rew, terminated, truncated, info)
        return obs, rew, terminated, truncated, info

    def _collect(self, rew: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
        self._lane.collect(self.buffer, self.policy_version, rew, terminated, truncated, info)

    # Episodes.

    def collect_train_episode(self, max_samples: float | None = None) -> None:
        """Collects one episode from its reset to its end; does not send it.

        Args:
            max_samples: Steps after which it is truncated; `max_samples_per_episode` by default.
        """
        limit = self._limit(max_samples)
        self.reset(collect_samples=True)
        while self.is_episode_open:
            self._collect_step(limit)

    def collect_steps(self, nb_steps: int) -> int:
        """Collects steps, going on with the open episode; where one ends the next begins.

        Args:
            nb_steps: Steps of the environment; resets are not counted.

        Returns:
            How many samples they made, with the resets.
        """
        n_resets = 0
        for _ in range(nb_steps):
            if not self.is_episode_open:
                n_resets += self._collect_next()
            self._collect_next()
        return nb_steps + n_resets

    def _collect_next(self) -> int:
        """Collects one sample: a step of the open episode, or a reset if none is open."""
        if self.is_episode_open:
            self._collect_step(self.max_samples_per_episode)
        else:
            self.reset(collect_samples=True)
        return 1

    def _collect_step(self, limit: float) -> None:
        is_last = self._lane.episode_step + 1 >= limit
        self.step(self._lane.obs, test=False, collect_samples=True, last_step=is_last)

    def run_episode(self, max_samples: float | None = None, train: bool = False) -> None:
        """Runs one episode without collecting it and notes its return and length as a test's.

        Args:
            max_samples: Steps after which it is left; `max_samples_per_episode` by default.
            train: Whether to act with exploration.
        """
        limit = self._limit(max_samples)
        obs, _ = self.reset(collect_samples=False)
        terminated = truncated = False
        while not (terminated or truncated) and self._lane.episode_step < limit:
            obs, _, terminated, truncated, _ = self.step(obs, test=not train, collect_samples=False)
        self.buffer.record_episode(self._lane.record(self.policy_version, is_test=True))

    def _limit(self, max_samples: float | None) -> float:
        if max_samples is None:
            return self.max_samples_per_episode
        return checked_limit("max_samples", max_samples)

    # Loops.

    def _collect_episodes(self, verbose: bool) -> int:
        before = len(self.buffer.episodes)
        self.collect_train_episode()
        self._log_episodes(before, verbose)
        self.send_and_clear_buffer()
        return 1

    def run_env_benchmark(self, nb_steps: int, test: bool = False, verbose: bool = True) -> Mapping[str, Any]:
        """Steps a real-time environment and returns its own measurements.

        Args:
            nb_steps: Steps to take, nothing of which is collected.
            test: Whether to act as in deployment.
            verbose: Whether to log the result.

        Raises:
            ValueError: The environment measures nothing.
        """
        measure = measure_of(self.env)
        is_done = True
        for _ in range(nb_steps):
            if is_done:
                self.reset(collect_samples=False)
            _, _, terminated, truncated, _ = self.step(self._lane.obs, test=test, collect_samples=False)
            is_done = terminated or truncated
        result = measure()
        if verbose:
            logger.info("%s: %s", self.worker_id, result)
        return result

    def _close_envs(self) -> None:
        self.env.close()
