"""FedWorker: what all workers do alike. They send what they collected, act with the newest policy, and close.

Whoever makes a line closes it. A worker that is given one as its `sink` sends what is left when it closes,
and leaves the line open:

    with connect_worker("sims") as line, VectorWorker(..., sink=line) as worker:
        worker.run()
"""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.interval import Interval
from tmrl.lane import SampleRules
from tmrl.policy_feed import PolicyFeed
from tmrl.sink import Sink

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pace:
    """How far a worker in step may go: so many samples for each policy."""

    samples_per_policy: float
    samples: float = 0
    policies: int = 1

    @property
    def is_over(self) -> bool:
        """Whether the next sample would be one too many."""
        return (self.samples + 1) / self.policies > self.samples_per_policy

    @property
    def budget(self) -> float:
        """Samples to collect now: no more than a policy's, so that a newer one is soon taken."""
        room = np.floor(self.samples_per_policy * self.policies) - self.samples
        return min(room, self.samples_per_policy)

    def go_on(self) -> None:
        """Makes room for a policy's samples, however many there were, without a policy more."""
        self.samples = min(self.samples, self.samples_per_policy * (self.policies - 1))


class FedWorker(ABC):
    """A worker whose policies come from a trainer; `RolloutWorker` and `VectorWorker` are its kinds."""

    buffer: Buffer
    _feed: PolicyFeed
    _rules: SampleRules

    @property
    def worker_id(self) -> str:
        """The worker's name."""
        return self._feed.worker_id

    @property
    @abstractmethod
    def num_envs(self) -> int:
        """How many environments it steps."""

    @property
    @abstractmethod
    def can_test(self) -> bool:
        """Whether a test episode would cut no training episode."""

    @property
    def crc_debug(self) -> bool:
        """Whether samples carry the checksums of their transitions."""
        return self._rules.crc_debug

    @property
    def actor(self) -> ActorModule:
        """The policy, replaced when a new one arrives."""
        return self._feed.actor

    @actor.setter
    def actor(self, actor: ActorModule) -> None:
        self._feed.actor = actor

    @property
    def policy_version(self) -> int:
        """Which of the trainer's policies acts, counting from 1; 0 before the first."""
        return self._feed.version

    # Episodes and steps.

    @abstractmethod
    def collect_steps(self, nb_steps: int) -> int:
        """Collects steps, going on with open episodes; returns how many samples they made."""

    @abstractmethod
    def _collect_next(self) -> int:
        """Collects as little as can be; returns how many samples that was."""

    @abstractmethod
    def run_episode(self, max_samples: float | None = None, train: bool = False) -> None:
        """Runs one episode without collecting it and notes its return and length as a test's."""

    def run_episodes(
        self, max_samples_per_episode: float | None = None, nb_episodes: float = np.inf, train: bool = False
    ) -> None:
        """Runs `nb_episodes` times `run_episode`."""
        while nb_episodes > 0:
            self.run_episode(max_samples_per_episode, train=train)
            nb_episodes -= 1

    def _test_interval(self, episodes: int) -> Interval:
        """Says when a test episode is due: first of all, and then after so many; never with CRC debugging."""
        return Interval(0 if self.crc_debug else episodes, begins_due=True)

    def _log_episodes(self, since: int, verbose: bool) -> None:
        """Logs those in the buffer from a place on."""
        for record in self.buffer.episodes[since:] if verbose else ():
            logger.info("%s: %s", record.worker, record)

    # At the worker's own pace.

    def run(
        self,
        test_episode_interval: int = 0,
        nb_episodes: float = np.inf,
        verbose: bool = True,
        expert: bool = False,
    ) -> None:
        """Collects and sends episodes, and takes the newest policy after each.

        Args:
            test_episode_interval: Every how many episodes a test episode comes first; 0 for none. There are
                none with `crc_debug`.
            nb_episodes: How many episodes to complete, in all environments together; where these are several,
                more may end with the last.
            verbose: Whether to log each one.
            expert: Whether to keep the policy and drop those that arrive, without test episodes.
        """
        tests = self._test_interval(0 if expert else test_episode_interval)
        while nb_episodes > 0:
            if tests.is_due():
                self.run_episode()
            n_episodes = self._collect_episodes(verbose)
            tests.tick(n_episodes)
            nb_episodes -= n_episodes
            if expert:
                self.ignore_actor_weights()
            else:
                self.update_actor_weights(verbose=verbose)

    @abstractmethod
    def _collect_episodes(self, verbose: bool) -> int:
        """Collects until an episode ends, and sends; returns how many ended."""

    # In step with the trainer.

    def run_synchronous(
        self,
        test_episode_interval: int = 0,
        nb_steps: float = np.inf,
        initial_steps: int = 1,
        max_steps_per_update: float = np.inf,
        end_episodes: bool = True,
        verbose: bool = False,
    ) -> None:
        """Collects in step with the trainer: so many samples for each policy it sends, and no more.

        Whatever was collected is sent before the worker waits. A trainer that waits for samples itself sends
        its policy again: a worker that has this policy, and waits, then collects as for a new one; to others
        it means nothing. So the two never wait for each other, whatever the numbers.

        Args:
            test_episode_interval: Every how many episodes a test episode comes first; 0 for none. There are
                none with `crc_debug`.
            nb_steps: Samples to collect after the initial ones, in all environments; resets count.
            initial_steps: Samples to collect before the first wait; resets count.
            max_steps_per_update: Samples per policy beyond which the worker waits for the next.
            end_episodes: Whether to wait only where an episode has ended, of whichever environment, and not
                after any step.
            verbose: Whether to log each episode and policy.

        Raises:
            StalledError: No policy came for `wait_limit_s`.
        """
        tests, pace, samples = self._test_interval(test_episode_interval), _Pace(max_steps_per_update), 0
        while pace.samples < initial_steps:
            pace.samples += self._collect_and_send(initial_steps - pace.samples, end_episodes, verbose)[0]
        self._await_policies(pace, verbose)
        pace.samples = 0
        while samples < nb_steps:
            if self.can_test and tests.is_due():
                self.run_episode()
            budget = min(nb_steps - samples, pace.budget)
            n_samples, n_episodes = self._collect_and_send(budget, end_episodes, verbose)
            samples += n_samples
            pace.samples += n_samples
            tests.tick(n_episodes)
            self._await_policies(pace, verbose)

    def _collect_and_send(self, budget: float, end_episodes: bool, verbose: bool) -> tuple[int, int]:
        """Collects until an episode ends, or up to the budget unless `end_episodes`; returns both counts."""
        samples, before = 0, len(self.buffer.episodes)
        while not samples or (len(self.buffer.episodes) == before and (end_episodes or samples < budget)):
            samples += self._collect_next()
        n_episodes = len(self.buffer.episodes) - before
        self._log_episodes(before, verbose)
        self.send_and_clear_buffer()
        return samples, n_episodes

    def _await_policies(self, pace: _Pace, verbose: bool) -> None:
        """Takes policies until the samples sent are not too many for them."""
        n_policies = self.update_actor_weights(verbose=verbose)
        pace.policies += 0 if self._feed.is_again else n_policies
        while pace.is_over:
            n_policies = self.update_actor_weights(verbose=verbose, blocking=True)
            if self._feed.is_again:
                pace.go_on()
                return
            pace.policies += n_policies

    # The line to the trainer.

    @property
    def sink(self) -> Sink | None:
        """The line to the trainer; may be set later."""
        return self._feed.sink

    @sink.setter
    def sink(self, sink: Sink | None) -> None:
        self._feed.sink = sink

    def send_and_clear_buffer(self) -> None:
        """Hands what was collected to the sink; without one it stays in `buffer`."""
        self._feed.send(self.buffer)

    def update_actor_weights(self, verbose: bool = True, blocking: bool = False) -> int:
        """Takes the newest policy that arrived.

        Args:
            verbose: Whether to log it.
            blocking: Whether to wait for one if there is none.

        Returns:
            How many policies arrived since the last call.

        Raises:
            StalledError: None came for `wait_limit_s`.
            PolicyError: What came cannot be read; the worker still has the policy it had.
        """
        return self._feed.update(verbose, blocking)

    def ignore_actor_weights(self) -> int:
        """Drops the policies that arrived and returns how many they were."""
        return self._feed.ignore()

    def close(self) -> None:
        """Hands what is left to the sink, which stays open, and closes the environments."""
        try:
            if len(self.buffer) or self.buffer.episodes:
                self.send_and_clear_buffer()
        finally:
            self._close_envs()

    @abstractmethod
    def _close_envs(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
