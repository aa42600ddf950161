"""Session: one training run in one process, from the worker to the files it leaves.

worker -> WorkerSource -> Journal -> TorchTrainingOffline (ReplayMemory, agent) -> Trainer
                                             `-> Keeper -> Checkpoint
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from rich.console import Console

from tmrl.actor import ActorModule
from tmrl.envs import AtariEnv, GenericGymEnv
from tmrl.networking import Trainer
from tmrl.runs.curve import draw_curve
from tmrl.runs.display import make_display
from tmrl.runs.folder import RunFolder, read_json, write_json
from tmrl.runs.journal import Journal
from tmrl.runs.keeper import Keeper
from tmrl.runs.recipe import agent_name, make_actor, make_agent, make_memory
from tmrl.runs.settings import ATARI, TrainSettings
from tmrl.training import Checkpoint, TorchTrainingOffline, TrainingAgent, WorkerSource
from tmrl.vector_env import single_spaces
from tmrl.vector_worker import VectorWorker
from tmrl.worker import RolloutWorker

TEST_EPISODES = 10
TEST_SEED_OFFSET = 1_000_000
"""Added to the seed for the final test, so that it starts from other states than the training."""
STEPS_PER_ROUND = 1000
STEPS_PER_EXCHANGE = 50
"""Steps between two exchanges of samples and policies between the worker and the loop, or a few more: whole
steps of all environments."""
STEPS_PER_TEST = 1000
EPISODES_PER_TEST = 5
STEPS_PER_ATARI_TEST = 25_000
"""Steps between two tests where an episode is a thousand steps and more."""


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


def make_worker(settings: TrainSettings, seed: int) -> RolloutWorker | VectorWorker:
    """Makes the worker of a run, for one environment or for several.

    Args:
        settings: Of the run.
        seed: Of the first environment; the others have the numbers after it.

    Raises:
        ValueError: The environment, or a space of it, does not suit.
    """
    env_cls = partial(make_env, settings.env)
    options: dict[str, Any] = {
        "standalone": True,
        "crc_debug": settings.crc_debug,
        "worker_id": "local",
        "seed": seed,
        "frame_stack": settings.stack,
    }
    actor_cls = partial(make_actor, settings.agent)
    if settings.num_envs == 1:
        return RolloutWorker(env_cls, actor_cls, **options)

    def make_envs() -> "SyncVectorEnv[Any, Any]":  # no generic class in Gymnasium 1.1
        # Each call steps each environment, and final observations are copied before the reset.
        return SyncVectorEnv([env_cls] * settings.num_envs, autoreset_mode=AutoresetMode.DISABLED)

    return VectorWorker(make_envs, actor_cls, test_env_cls=env_cls, **options)


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
        self.worker = make_worker(settings, seed)
        observation_space, action_space = single_spaces(self.worker.env)
        self.agent_name = agent_name(settings.agent, action_space)
        self._steps_per_exchange = math.ceil(STEPS_PER_EXCHANGE / settings.num_envs) * settings.num_envs
        updates_per_exchange = max(1, round(self._steps_per_exchange * settings.ratio))
        self.training = TorchTrainingOffline(
            (self.worker.actor.observation_space, action_space),
            partial(make_memory, settings, (observation_space, action_space), is_new=resumed is None),
            partial(make_agent, settings),
            epochs=1,
            steps=STEPS_PER_ROUND,
            update_model_interval=updates_per_exchange,
            update_buffer_interval=updates_per_exchange,
            max_training_steps_per_env_step=settings.ratio,
            start_training=min(settings.warm_up, settings.steps),
            device=device,
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
        source = WorkerSource(
            self.worker,
            self._steps_per_exchange,
            test_interval_steps=STEPS_PER_ATARI_TEST if self.settings.is_atari else STEPS_PER_TEST,
            test_episodes=EPISODES_PER_TEST,
        )
        display = make_display(console, title)
        source.broadcast_model(self.training.agent.get_actor())
        journal = Journal(source, folder.path, display, self.settings.updates, self._notes)
        checkpoint = Checkpoint(folder.checkpoint)
        keeper = Keeper(checkpoint, self.training, journal, self.settings.checkpoint_interval_s)
        self.training.on_update = keeper.on_update
        try:
            with source, display, keeper, Trainer(lambda: self.training, source=keeper) as trainer:
                keeper.save()
                trainer.run()
                keeper.save()
            returns = self.test_policy()
        except KeyboardInterrupt:
            returns = None
        outcome = Outcome(self, journal, returns)
        outcome.write(folder)
        return outcome

    def test_policy(self) -> list[float]:
        """Returns of the final test of the policy as it is now."""
        seed = self.settings.seed + TEST_SEED_OFFSET
        env_cls = partial(make_env, self.settings.env, is_test=True)
        actor = self.training.agent.get_actor()
        return run_tests(env_cls, actor, TEST_EPISODES, seed, self.settings.stack)


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
            "test_return_mean": None if returns is None else self.mean,
            "test_return_std": None if returns is None else float(np.std(returns)),
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
