"""Recording: a policy acts, and each complete episode is on the disk before the next one begins."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tmrl.actor import ActorModule
from tmrl.chunk import chunks_of
from tmrl.datasets.native import NativeDataset, is_native
from tmrl.datasets.samples import episodes_of, schema_of
from tmrl.datasets.writer import DatasetWriter, check_is_free
from tmrl.packing import Packer
from tmrl.runs.declared import history_from_text
from tmrl.runs.folder import RunFolder, read_json
from tmrl.runs.settings import RANDOM, RecordSettings, TrainSettings
from tmrl.worker import RolloutWorker


class RandomActor(ActorModule):
    """Acts at random.

    Args:
        observation_space: Not used.
        action_space: What is sampled.
        seed: Of the samples.
    """

    def __init__(self, observation_space: Any, action_space: Any, seed: int | None = None) -> None:
        super().__init__(observation_space, action_space)
        action_space.seed(seed)

    def act(self, obs: Any, test: bool = False) -> Any:  # noqa: ARG002
        """A sample of the action space."""
        return self.action_space.sample()


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy that a run left, and how it is used."""

    env: str
    """Id of the environment of the run."""
    frame_stack: int
    """Observations that it sees at once."""
    make: Callable[..., ActorModule]
    """Makes it, called with `observation_space` and `action_space`."""


def load_policy(run: Path) -> Policy:
    """The policy of a run.

    Raises:
        FileNotFoundError: It is no folder of a run.
        ValueError: Its settings cannot be read.
    """
    from tmrl.runs.recipe import make_actor

    folder = RunFolder.open(run)
    settings = TrainSettings.from_config(read_json(folder.config), run)

    def make(observation_space: Any, action_space: Any) -> ActorModule:
        actor = make_actor(settings.agent, observation_space, action_space)
        return actor.load(folder.policy, "cpu")

    return Policy(settings.env, settings.stack, make)


class Recorder:
    """A worker that is ready to record; nothing is on disk yet.

    Args:
        settings: Of the recording.

    Raises:
        ValueError: A setting does not suit; the message says what and the remedy.
        FileNotFoundError: The policy is no folder of a run.
    """

    def __init__(self, settings: RecordSettings) -> None:
        from tmrl.runs.environments import make_env

        settings.check()
        check_is_free(settings.out, settings.append)
        self.settings = settings
        self._history = None if settings.history is None else history_from_text(settings.history)
        if settings.policy == RANDOM:
            policy = Policy(str(settings.env), 1, partial(RandomActor, seed=settings.seed))
        else:
            policy = load_policy(Path(settings.policy))
        self.env = settings.env or policy.env
        self.worker = RolloutWorker(
            partial(make_env, self.env),
            policy.make,
            standalone=True,
            crc_debug=settings.crc_debug,
            seed=settings.seed,
            source=settings.source,
            frame_stack=policy.frame_stack,
            history=self._history,
        )
        self._writer: DatasetWriter | None = None

    def record(self, console: Console) -> int:
        """Records until all episodes are there, or until Ctrl-C.

        Args:
            console: Where the progress is shown.

        Returns:
            How many were recorded.

        Raises:
            DatasetError: The folder holds rows of another layout, or somebody else writes to it.
            HistoryError: An observation is not what the history says.
            BadSampleError: The environment returned what no row can hold.
        """
        n_recorded, n_before = 0, self._n_on_disk()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with self.worker, Progress(*columns, console=console) as progress:
            task = progress.add_task(f"{self.env} · {self.settings.out}", total=self.settings.episodes)
            try:
                while n_recorded < self.settings.episodes:
                    self._write(self._collect())
                    n_recorded += 1
                    progress.update(task, completed=n_recorded)
            except KeyboardInterrupt:
                # It may have come when an episode was on the disk and not counted yet.
                n_recorded = self._n_on_disk() - n_before
        return n_recorded

    def _n_on_disk(self) -> int:
        out = self.settings.out
        return len(NativeDataset(out)) if is_native(out) else 0

    def _collect(self) -> list[Any]:
        """The samples of one episode, acted as in deployment."""
        worker, limit = self.worker, self.settings.max_steps
        obs, _ = worker.reset(collect_samples=True)
        while worker.is_episode_open:
            is_last = len(worker.buffer) == limit
            obs, *_ = worker.step(obs, test=True, collect_samples=True, last_step=is_last)
        samples = worker.buffer.memory
        worker.buffer.clear()
        return samples

    def _write(self, samples: list[Any]) -> None:
        if self._writer is None:
            env = self.worker.env
            self._writer = DatasetWriter(
                self.settings.out,
                schema_of(samples, self.settings.info_keys, self._history),
                self.env,
                env.observation_space,
                env.action_space,
                durable=True,
                append=self.settings.append,
            )
        (episode,) = episodes_of(chunks_of(samples, Packer(self._writer.schema)))
        self._writer.write(episode)
