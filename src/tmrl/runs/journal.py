"""Journal: notes what happens in a run as it passes between the worker and the training loop."""

import math
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.memory import ReplayMemory
from tmrl.runs.curve import CurvePoint
from tmrl.runs.display import Display, Snapshot
from tmrl.training import SampleSource, TrainingOffline
from tmrl.transition import EpisodeRecord

LOG_INTERVAL = 100
"""Updates from one TensorBoard entry to the next."""
LOOP_METRICS = frozenset(
    {
        "return_test",
        "return_train",
        "episode_length_test",
        "episode_length_train",
        "sampling_duration",
        "training_step_duration",
    }
)
"""Metrics of the loop, which are logged episode by episode, or as shares, instead."""

_NOTHING: dict[str, Any] = {
    "points": [],
    "updates": 0,
    "env_steps": 0,
    **dict.fromkeys(("sampling_s", "training_s", "since_first_update_s", "elapsed_s"), 0.0),
}
"""The state of a journal in which nothing stands."""


class Journal:
    """Stands between the source of samples and the training loop, and hears of every update.

    It is a `SampleSource` itself. Episodes and metrics go to TensorBoard, figures to the display.

    Args:
        source: The source whose samples and policies pass.
        folder: Where the TensorBoard files go.
        display: Shows how the run stands.
        updates_planned: Training steps of the whole run.
        earlier: What `state()` returned in a checkpoint that the run goes on from; None for a new run.

    Attributes:
        source: As given.
        points: The episodes that finished.
        updates: Training steps done.
        env_steps: Samples passed, resets included.
    """

    def __init__(
        self,
        source: SampleSource,
        folder: Path,
        display: Display,
        updates_planned: int,
        earlier: dict[str, Any] | None = None,
    ) -> None:
        earlier = _NOTHING | (earlier or {})
        now = time.perf_counter()
        self.points = [CurvePoint(*point) for point in earlier["points"]]
        self.updates: int = earlier["updates"]
        self.env_steps: int = earlier["env_steps"]
        self.source = source
        self._display = display
        self._planned = updates_planned
        # What a killed run logged after its last checkpoint must not stand beside what comes now.
        purge_step = self.env_steps + 1 if self.env_steps else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        self._sampling_s: float = earlier["sampling_s"]
        self._training_s: float = earlier["training_s"]
        self._first_update_at = now - earlier["since_first_update_s"]
        self._started_at = now - earlier["elapsed_s"]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that curve and summary tell of the whole run."""
        return {
            "points": [[point.env_steps, point.episode_return, point.is_test] for point in self.points],
            "updates": self.updates,
            "env_steps": self.env_steps,
            "sampling_s": self._sampling_s,
            "training_s": self._training_s,
            "since_first_update_s": time.perf_counter() - self._first_update_at,
            "elapsed_s": self.elapsed_s,
        }

    def retrieve_buffer(self) -> Buffer:
        """Passes on what the source has, and notes the episodes that finished."""
        buffer = self.source.retrieve_buffer()
        self.env_steps += len(buffer)
        for record in buffer.episodes:
            self._note_episode(record)
        return buffer

    def broadcast_model(self, actor: ActorModule) -> None:
        """Passes the policy on."""
        self.source.broadcast_model(actor)

    def _note_episode(self, record: EpisodeRecord) -> None:
        self.points.append(CurvePoint(self.env_steps, record.episode_return, record.is_test))
        kind = "test" if record.is_test else "train"
        self._writer.add_scalar(f"return/{kind}", record.episode_return, self.env_steps)
        self._writer.add_scalar(f"episode_length/{kind}", record.length, self.env_steps)

    def on_update(self, loop: TrainingOffline, metrics: dict[str, Any]) -> None:
        """Notes one training step; for `TrainingOffline.on_update`."""
        if not self.updates:
            self._first_update_at = time.perf_counter()
        self.updates += 1
        self._sampling_s += metrics["sampling_duration"]
        self._training_s += metrics["training_step_duration"]
        if self.updates % LOG_INTERVAL == 0:
            self._log(loop.memory, metrics)
        self._display.update(lambda: self._snapshot(loop.memory), is_last=self.updates == self._planned)

    def _log(self, memory: ReplayMemory, metrics: dict[str, Any]) -> None:
        scalars = {f"agent/{name}": value for name, value in metrics.items() if name not in LOOP_METRICS}
        scalars["memory/transitions"] = len(memory)
        scalars["memory/sample_age_rows"] = memory.stats().age_rows_p50
        scalars["time/sampling_share"] = self.sampling_share
        scalars["time/updates_per_s"] = self.updates_per_s
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), self.env_steps)

    def _snapshot(self, memory: ReplayMemory) -> Snapshot:
        stats = memory.stats()
        return Snapshot(
            updates=self.updates,
            updates_planned=self._planned,
            updates_per_s=self.updates_per_s,
            env_steps=self.env_steps,
            return_train=self.newest_return(is_test=False),
            return_test=self.newest_return(is_test=True),
            transitions=stats.transitions,
            capacity=stats.capacity,
            age_rows=stats.age_rows_p50,
            age_s=stats.age_s_p50,
            sampling_share=self.sampling_share,
        )

    def newest_return(self, is_test: bool) -> float | None:
        """Return of the newest test or training episode, if one has finished."""
        returns = (point.episode_return for point in reversed(self.points) if point.is_test == is_test)
        return next(returns, None)

    @property
    def sampling_share(self) -> float:
        """Share of sampling in the time of all training steps so far; NaN before the first."""
        total_s = self._sampling_s + self._training_s
        return self._sampling_s / total_s if total_s else math.nan

    @property
    def updates_per_s(self) -> float:
        """Training steps a second since the first, collecting and testing included, pauses of the run not."""
        elapsed_s = time.perf_counter() - self._first_update_at
        return (self.updates - 1) / elapsed_s if self.updates > 1 else 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the journal was opened, and those of the run before."""
        return time.perf_counter() - self._started_at

    def close(self) -> None:
        """Writes what TensorBoard still holds."""
        self._writer.close()
