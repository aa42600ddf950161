"""The policy files of a worker: the newest policy, and every so many one to keep."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tmrl.actor import ActorModule


class PolicyFiles:
    """Where a worker reads its first policy and writes those that arrive.

    Args:
        newest: File of the newest policy; None reads and writes nothing.
        history: What the names of the files to keep begin with.
        keep_every: Every how many policies one is kept; 0 keeps none.
        allow_pickle: Whether `newest` may be a pickle.
    """

    def __init__(
        self, newest: str | Path | None, history: str | Path | None, keep_every: int, allow_pickle: bool
    ) -> None:
        if keep_every and history is None:
            raise ValueError(
                f"model_history={keep_every} keeps policies under model_path_history, got None; pass a path"
            )
        self.newest = None if newest is None else Path(newest)
        self._history = history
        self._keep_every = keep_every
        self._allow_pickle = allow_pickle
        self._seen = 0

    def read(self, actor: ActorModule, device: Any) -> ActorModule:
        """The policy in the file if there is one, else `actor`."""
        if self.newest is None or not self.newest.exists():
            return actor
        # A user's own load() may know nothing of allow_pickle.
        trust = {"allow_pickle": True} if self._allow_pickle else {}
        return actor.load(self.newest, device, **trust)

    def write(self, actor: ActorModule, received: int) -> None:
        """Writes a policy, the newest of `received`."""
        before, self._seen = self._seen, self._seen + received
        if self.newest is not None:
            actor.save(self.newest)
        if self._keep_every and self._seen // self._keep_every > before // self._keep_every:
            actor.save(f"{self._history}{datetime.now(UTC):%Y%m%dT%H%M%S%f}.tmod")
