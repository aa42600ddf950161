"""Session: one training run, from where its samples come from to the files it leaves.

Feed -> Journal -> TorchTrainingOffline (ReplayMemory, agent) -> Trainer
                           `-> Keeper -> Checkpoint
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console

from tmrl.actor import ActorModule
from tmrl.frames import stacked_space
from tmrl.networking import Trainer
from tmrl.runs.curve import draw_curve
from tmrl.runs.display import make_display
from tmrl.runs.environments import make_env
from tmrl.runs.feed import make_feed
from tmrl.runs.folder import RunFolder, read_json, write_json
from tmrl.runs.journal import Journal
from tmrl.runs.keeper import Keeper
from tmrl.runs.recipe import agent_name, make_agent, make_memory
from tmrl.runs.settings import TrainSettings
from tmrl.training import Checkpoint, TorchTrainingOffline, TrainingAgent
from tmrl.training.source import attach, line_of
from tmrl.worker import RolloutWorker

TEST_SEED_OFFSET = 1_000_000
"""Added to the seed for the final test, so that it starts from other states than the training."""
STEPS_PER_ROUND = 1000


def checked_device(device: str | None) -> str:
    """The device to use: as given, or the best one there is.

    Raises:
        ValueError: There is no such device.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--device must be one that torch can use here, got {device!r}: {reason}; use --device cpu"
        ) from error
    return device


def run_tests(
    env_cls: Callable[[], Any], actor: ActorModule, episodes: int, seed: int, frame_stack: int = 1
) -> list[float]:
    """Returns of test episodes of a policy in a fresh environment."""
    device = getattr(actor, "device", "cpu")
    with RolloutWorker(
        env_cls, _Given(actor), device=device, standalone=True, seed=seed, frame_stack=frame_stack
    ) as worker:
        worker.run_episodes(nb_episodes=episodes)
        return [record.episode_return for record in worker.buffer.episodes]


@dataclass(frozen=True, slots=True)
class _Given:
    """Stands for the class of an actor that exists already."""

    actor: ActorModule

    def __call__(self, observation_space: Any, action_space: Any) -> ActorModule:  # noqa: ARG002
        return self.actor


class Session:
    """A training run that is ready to start; nothing is on disk yet.

    Args:
        settings: Of the run.
        resumed: The checkpoint to go on from; None for a new run.

    Raises:
        ValueError: A setting does not suit; the message says what and the remedy.
        DatasetError: The checkpoint is damaged, or that of another training.
    """

    def __init__(self, settings: TrainSettings, resumed: Checkpoint | None = None) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        device = checked_device(settings.device)
        # Where the environment stood is not saved: it starts afresh, and from other states than the run did.
        seed = (
            settings.seed if resumed is None else _mixed(settings.seed, resumed.counters()["total_samples"])
        )
        self.feed = make_feed(settings, seed)
        observation_space, action_space = self.feed.spaces
        self.agent_name = agent_name(settings.agent, action_space)
        updates_per_exchange = max(1, round(self.feed.steps_per_exchange * settings.ratio))
        self.training = TorchTrainingOffline(
            (stacked_space(observation_space, settings.stack), action_space),
            partial(
                make_memory,
                settings,
                (observation_space, action_space),
                kept=None if resumed is None else resumed.kept(),
            ),
            partial(make_agent, settings),
            epochs=1,
            steps=STEPS_PER_ROUND,
            update_model_interval=updates_per_exchange,
            update_buffer_interval=updates_per_exchange,
            max_training_steps_per_env_step=settings.ratio,
            start_training=min(settings.warm_up, settings.steps),
            device=device,
            max_env_steps_ahead=settings.max_env_steps_ahead or math.inf,
        )
        if settings.demo_fraction is not None:
            # The loop counts demonstrations as samples, but they are no warm-up: a batch needs others too.
            self.training.start_training += self.training.total_samples
        self._notes = None if resumed is None else resumed.load(self.training)
        _set_learning_rate(self.training.agent, settings.rate)
        self._plan()

    def _plan(self) -> None:
        """Sets the loop to do the updates that are left, in whole rounds but for the first."""
        training = self.training
        updates = max(0, self.settings.updates - training.total_updates)
        training.rounds = math.ceil(updates / training.steps)
        training.epoch = training.round = 0
        training.step = training.rounds * training.steps - updates

    def run(self, folder: RunFolder, console: Console) -> "Outcome":
        """Trains to the end, or until Ctrl-C, and writes config, metrics, policy, curve and summary.

        Checkpoints are made at the start, from time to time, and at the end.

        Args:
            folder: Where to; made for this run, or by the run that goes on.
            console: Where the progress is shown.
        """
        write_json(folder.config, self.settings.as_config())
        title = f"{self.settings.env} · {folder.path}"
        display = make_display(console, title)
        source = self.feed.open(folder.path)
        with source, display:
            line = line_of(source)
            if line is not None and self._notes is not None and "line" in self._notes:
                line.restore(self._notes["line"])
            attach(source, self.training.memory)
            source.broadcast_model(self.training.agent.get_actor())
            journal = Journal(source, folder.path, display, self.settings.updates, self._notes)
            returns = self._train(folder, journal)
        outcome = Outcome(self, journal, returns)
        outcome.write(folder)
        return outcome

    def _train(self, folder: RunFolder, journal: Journal) -> list[float] | None:
        """Trains, and returns the returns of the final test; None if Ctrl-C came."""
        checkpoint = Checkpoint(folder.checkpoint)
        keeper = Keeper(checkpoint, self.training, journal, self.settings.checkpoint_interval_s)
        self.training.on_update = keeper.on_update
        try:
            with keeper, Trainer(lambda: self.training, source=keeper) as trainer:
                keeper.save()
                trainer.run()
                keeper.save()
            return self.test_policy()
        except KeyboardInterrupt:
            return None

    def test_policy(self) -> list[float]:
        """Returns of the final test of the policy as it is now; none if there is no test."""
        if not self.settings.test_episodes:
            return []
        seed = self.settings.seed + TEST_SEED_OFFSET
        env_cls = partial(make_env, self.settings.env, is_test=True)
        actor = self.training.agent.get_actor()
        return run_tests(env_cls, actor, self.settings.test_episodes, seed, self.settings.stack)


def resumed_session(settings: TrainSettings, folder: RunFolder) -> Session:
    """A session that goes on with the run in a folder.

    Raises:
        ValueError: The run is finished; otherwise as for `Session`.
    """
    summary = read_json(folder.summary) if folder.summary.exists() else {}
    updates = summary.get("updates", 0)
    if not summary.get("interrupted", True) and updates >= settings.updates:
        raise ValueError(
            f"{folder.path} is finished, with {updates:,} of {settings.updates:,} updates and the "
            "final test; train longer with --steps"
        )
    return Session(settings, Checkpoint(folder.checkpoint))


def _mixed(*numbers: int) -> int:
    """One seed made of several."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _set_learning_rate(agent: TrainingAgent, learning_rate: float) -> None:
    for part in vars(agent).values():
        if isinstance(part, TrainingAgent):
            _set_learning_rate(part, learning_rate)
        elif isinstance(part, torch.optim.Optimizer):
            for group in part.param_groups:
                group["lr"] = learning_rate


class Outcome:
    """What came of a run.

    Args:
        session: The run.
        journal: What was noted on the way.
        returns: Of the final test; None if the run was interrupted.
    """

    def __init__(self, session: Session, journal: Journal, returns: Sequence[float] | None) -> None:
        self.settings = session.settings
        self.returns = returns
        self._session = session
        self._journal = journal

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self.returns is None

    @property
    def mean(self) -> float:
        """Mean return of the final test."""
        return float(np.mean(self.returns or math.nan))

    @property
    def is_on_target(self) -> bool:
        """Whether the final test reached the target, if there is one."""
        return self.settings.target is None or self.mean >= self.settings.target

    def write(self, folder: RunFolder) -> None:
        """Writes the policy, the curve and the summary."""
        self._session.training.agent.get_actor().save(folder.policy)
        title = f"{self._session.agent_name.upper()} on {self.settings.env}, seed {self.settings.seed}"
        draw_curve(folder.curve, title, self._journal.points, self.settings.target, self.returns or ())
        write_json(folder.summary, self.summary())

    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; all but `timing` is the same for the same settings and machine."""
        journal, stats = self._journal, self._session.training.memory.stats()
        returns = self.returns
        return {
            "env": self.settings.env,
            "agent": self._session.agent_name,
            "seed": self.settings.seed,
            "num_envs": self.settings.num_envs,
            "interrupted": self.is_interrupted,
            "env_steps": journal.env_steps,
            "updates": journal.updates,
            "target_return": self.settings.target,
            "reached_target": None if returns is None or self.settings.target is None else self.is_on_target,
            "test_return_mean": self.mean if returns else None,
            "test_return_std": float(np.std(returns)) if returns else None,
            "test_returns": returns,
            "last_train_return": journal.newest_return(is_test=False),
            "memory": {
                "transitions": stats.transitions,
                "capacity": stats.capacity,
                "bytes_now": stats.bytes_now,
                "bytes_full": stats.bytes_full,
                "draws": stats.draws,
                "crc_checked": stats.crc_checked,
            },
            "timing": {
                "seconds": round(journal.elapsed_s, 3),
                "updates_per_s": round(journal.updates_per_s, 2),
                "sampling_share": journal.sampling_share if journal.updates else None,
            },
        }
