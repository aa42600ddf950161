"""TrainingOffline: the loop that trains an agent from a memory while workers fill it.

The loop knows no network: samples come from a `SampleSource`, policies go there. It never takes more training
steps per sample than it was told, so that learning does not run ahead of slow data.
"""

import cProfile
import io
import logging
import pstats
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tmrl.buffer import Buffer
from tmrl.errors import BadSampleError, HistoryError, IntegrityError, SchemaError
from tmrl.packing import worker_of
from tmrl.training.agent import TrainingAgent
from tmrl.training.metrics import RoundMeans, Stopwatch
from tmrl.training.rate_limit import RateLimit
from tmrl.training.source import SampleSource, line_of
from tmrl.waiting import Wait

logger = logging.getLogger(__name__)

CALL_AFTER_S = 2.0
"""Seconds without a sample after which a loop that waits for some sends its policy again."""
MAX_CALL_PAUSE_S = 60.0
"""Between two such calls, if still none comes."""


@dataclass(eq=False)
class TrainingOffline:
    """Trains an agent in epochs of rounds of steps; one step is one batch.

    The ratio that is kept counts samples as they arrive, those of resets included.

    Where the loop stands is in `epoch`, in `round`, the rounds done of this epoch, in `step`, the training
    steps done of this round, and in `total_updates` and `total_samples`. `run_epoch` goes on from there.
    `refused_samples` counts those of workers elsewhere that the memory refused.
    """

    env_cls: Any
    """`(observation_space, action_space)`, or makes an environment that is asked for them and closed."""
    memory_cls: Callable[..., Any]
    """Makes the memory, called with `nb_steps` and `device`."""
    training_agent_cls: Callable[..., TrainingAgent]
    """Makes the agent, called with `observation_space`, `action_space` and `device`."""
    epochs: float = 10
    """Epochs to train; may be infinite."""
    rounds: int = 50
    """Rounds an epoch."""
    steps: int = 2000
    """Training steps a round."""
    update_model_interval: int = 100
    """Training steps from one policy sent to the next."""
    update_buffer_interval: int = 100
    """Training steps from one retrieval of samples to the next."""
    max_training_steps_per_env_step: float = 1.0
    """Training steps per sample beyond which the loop waits for samples."""
    sleep_between_buffer_retrieval_attempts: float = 1.0
    """Seconds between two retrievals while waiting, where the last one brought nothing."""
    profiling: bool = False
    """Whether to log where each epoch spent its time."""
    agent_scheduler: Callable[[TrainingAgent, int], None] | None = None
    """Called with the agent and the number of the epoch before each epoch."""
    start_training: int = 0
    """Samples to wait for before the first training step."""
    device: str | None = None
    """Where batches are put and the agent computes."""
    on_update: "Callable[[TrainingOffline, dict[str, Any]], None] | None" = None
    """Called after each training step with the loop and its metrics: for displays, logs and checkpoints."""
    max_env_steps_ahead: float = float("inf")
    """Samples beyond what the training steps have needed, from which on the loop leaves samples where they
    are until it has caught up; see `RateLimit`."""

    total_updates = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "update_model_interval", "update_buffer_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        _ = self.rate_limit  # which checks it
        self.epoch = self.round = self.step = 0
        self.memory = self.memory_cls(nb_steps=self.steps, device=self.device)
        observation_space, action_space = self._spaces()
        self.agent = self.training_agent_cls(
            observation_space=observation_space, action_space=action_space, device=self.device
        )
        self.total_samples = len(self.memory)
        self.refused_samples = 0
        self._refused_workers: set[str] = set()
        self._held_back: Wait | None = None

    def _spaces(self) -> tuple[Any, Any]:
        if isinstance(self.env_cls, tuple):
            observation_space, action_space = self.env_cls
            return observation_space, action_space
        with self.env_cls() as env:
            return env.observation_space, env.action_space

    def run_epoch(self, interface: SampleSource) -> list[dict[str, float]]:
        """Trains for one epoch, or for what is left of one that was begun.

        Args:
            interface: Where samples come from and policies go.

        Returns:
            One dict a round, with `memory_len`, `round_time` and `idle_time` (waiting for samples), both in
            seconds, and the mean of every metric.
        """
        if self.agent_scheduler is not None and not (self.round or self.step):
            self.agent_scheduler(self.agent, self.epoch)
        rounds: list[dict[str, float]] = []
        with _profiled(self.profiling):
            while self.round < self.rounds:
                rounds.append(self._run_round(interface))
                self.round, self.step = self.round + 1, 0
        self.epoch, self.round = self.epoch + 1, 0
        return rounds

    def _run_round(self, interface: SampleSource) -> dict[str, float]:
        whole, idle, sampling, training = Stopwatch(), Stopwatch(), Stopwatch(), Stopwatch()
        means = RoundMeans()
        with whole:
            with idle:
                self.check_ratio(interface)
            for batch in _timed(self._batches(), sampling):
                # After the draw, as documented: what arrives now is for the batches to come.
                if self.total_updates % self.update_buffer_interval == 0:
                    self.update_buffer(interface)
                with training:
                    metrics = self.agent.train(batch)
                    self._update_priorities(batch)
                metrics.update(self._statistics(sampling.last_s, training.last_s))
                means.add(metrics)
                self.total_updates += 1
                self.step += 1
                if self.total_updates % self.update_model_interval == 0:
                    interface.broadcast_model(self.agent.get_actor())
                if self.on_update is not None:
                    self.on_update(self, dict(metrics))
                with idle:
                    self.check_ratio(interface)
        summary = {
            "memory_len": len(self.memory),
            "round_time": whole.total_s,
            "idle_time": idle.total_s,
            **means.means(),
        }
        logger.info("epoch %d: %s", self.epoch, summary)
        return summary

    def _batches(self) -> Iterable[Any]:
        """The batches of this round, or what is left of them."""
        return islice(self.memory, max(0, self.steps - self.step)) if self.step else self.memory

    def _update_priorities(self, batch: Any) -> None:
        """Gives the agent's errors to the memory, if the one has errors and the other takes priorities."""
        td_errors = getattr(self.agent, "td_errors", None)
        if td_errors is not None and _takes_priorities(self.memory):
            self.memory.update_priorities(batch.ids, td_errors)

    def _statistics(self, sampling_s: float, training_s: float) -> dict[str, float]:
        return {
            "return_test": self.memory.stat_test_return,
            "return_train": self.memory.stat_train_return,
            "episode_length_test": self.memory.stat_test_steps,
            "episode_length_train": self.memory.stat_train_steps,
            "sampling_duration": sampling_s,
            "training_step_duration": training_s,
        }

    @property
    def rate_limit(self) -> RateLimit:
        """The band that the three fields make; they may be changed at any time."""
        return RateLimit(self.max_training_steps_per_env_step, self.start_training, self.max_env_steps_ahead)

    def update_buffer(self, interface: SampleSource) -> None:
        """Moves what arrived into the memory, unless samples are too far ahead of the training."""
        limit, stands = self.rate_limit, (self.total_updates, self.total_samples)
        room = limit.room(*stands)
        if room <= 0 and len(self.memory):
            self._held_back = self._held_back or Wait("room for more samples")
            self._held_back.check(lambda: limit.excess(*stands))
            return
        self._held_back = None
        line = line_of(interface)
        if line is not None:
            line.max_samples = room
        buffer = interface.retrieve_buffer()
        parcels: list[Buffer] = getattr(buffer, "parcels", [])
        if parcels:
            self._append_each(parcels)
        else:
            self.memory.append(buffer)
            self.total_samples += len(buffer)

    def _append_each(self, parcels: list[Buffer]) -> None:
        """Takes in what several workers sent; what the memory refuses is left out, and said once a worker."""
        for parcel in parcels:
            try:
                self.memory.append(parcel)
            except (BadSampleError, SchemaError, HistoryError, IntegrityError) as error:
                self.refused_samples += len(parcel)
                workers = set(map(worker_of, parcel.memory))
                if not workers <= self._refused_workers:
                    self._refused_workers |= workers
                    logger.warning("the memory refuses samples of %s: %s", ", ".join(sorted(workers)), error)
            else:
                self.total_samples += len(parcel)

    def check_ratio(self, interface: SampleSource) -> None:
        """Waits until enough samples arrived for one more training step.

        While none arrive it sends the policy again, after two seconds and then after pauses that double: a
        worker in step with the trainer may be waiting for one itself; see `RolloutWorker.run_synchronous`.
        """
        wait, silence = Wait("a training step"), _Silence()
        while not self._may_train():
            before = self.total_samples
            self.update_buffer(interface)
            if self.total_samples > before:
                silence = _Silence()
                continue
            if silence.is_long():
                interface.broadcast_model(self.agent.get_actor())
            time.sleep(self.sleep_between_buffer_retrieval_attempts)
            wait.check(self._missing)

    def _may_train(self) -> bool:
        return bool(len(self.memory)) and self.rate_limit.may_train(self.total_updates, self.total_samples)

    def _missing(self) -> str:
        if not self.rate_limit.may_train(self.total_updates, self.total_samples):
            return self.rate_limit.missing(self.total_updates, self.total_samples)
        return f"a whole transition: the {self.total_samples:,} samples so far make none"


class TorchTrainingOffline(TrainingOffline):
    """`TrainingOffline` for torch: without a `device`, on a GPU if there is one."""

    def __post_init__(self) -> None:
        import torch

        self.device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        super().__post_init__()


class _Silence:
    """Is long after a while, and then again after a longer one."""

    def __init__(self) -> None:
        self._pause_s = CALL_AFTER_S
        self._since = time.monotonic()

    def is_long(self) -> bool:
        """Whether it is time to break it."""
        is_long = time.monotonic() - self._since >= self._pause_s
        if is_long:
            self._since, self._pause_s = time.monotonic(), min(2 * self._pause_s, MAX_CALL_PAUSE_S)
        return is_long


def _takes_priorities(memory: Any) -> bool:
    """Whether it can, and its sampler, if it has one, makes use of them."""
    sampler = getattr(memory, "sampler", None)
    return hasattr(memory, "update_priorities") and getattr(sampler, "has_priorities", True)


def _timed(batches: Iterable[Any], stopwatch: Stopwatch) -> Iterator[Any]:
    """Yields the batches, each drawn only when it is asked for."""
    iterator = iter(batches)
    while True:
        with stopwatch:
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch


@contextmanager
def _profiled(is_wanted: bool) -> Generator[None]:
    if not is_wanted:
        yield
        return
    with cProfile.Profile() as profile:
        yield
    report = io.StringIO()
    pstats.Stats(profile, stream=report).sort_stats("cumulative").print_stats(40)
    logger.info("profile of the epoch:\n%s", report.getvalue())
