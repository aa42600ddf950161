"""Facts: what the files of a memory say beside their rows; a dataset of another format says less of it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.dataset import Dataset
from tmrl.datasets.files import MANIFEST, read_manifest
from tmrl.datasets.segments import memory_in, rings_in
from tmrl.errors import DatasetError
from tmrl.memory.stats import Tally


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a memory or dataset beside its rows."""

    name: str
    """Of the file or folder."""
    disk_bytes: int
    """Bytes of all its files; 0 if they lie elsewhere."""
    changed_at: datetime | None
    """When it was written last; None if its files lie elsewhere."""
    capacity: int | None = None
    """Most transitions that the memory holds; None if it is no memory."""
    row_ids: range | None = None
    """Ids of the rows held; None if they have none."""
    tally: Tally = field(default_factory=Tally)
    """What happened to samples since the memory was made; empty if it is no memory."""
    newest: dict[str, int] = field(default_factory=dict[str, int])
    """Worker to the id of the newest row that it sent."""
    times: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    """`(n, 2)`: rows from this id on arrived at this time, in seconds; empty if that was not noted."""

    @property
    def newest_id(self) -> int:
        """Id of the newest row."""
        return -1 if self.row_ids is None else self.row_ids.stop - 1

    def arrivals(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """How long before the newest rows others arrived, in seconds, and how many rows did then."""
        if not len(self.times) or not self.row_ids:
            return np.empty(0), np.empty(0, np.int64)
        first_ids = self.times[:, 0].astype(np.int64)
        edges = np.append(np.maximum(first_ids, self.row_ids.start), self.row_ids.stop)
        edges[0] = self.row_ids.start
        n_rows = np.maximum(np.diff(edges), 0)
        return (self.times[-1, 1] - self.times[:, 1])[n_rows > 0], n_rows[n_rows > 0]

    def age_s(self, row_id: int) -> float:
        """How long before the newest rows this one arrived, in seconds; NaN if that was not noted."""
        if not len(self.times):
            return float("nan")
        place = max(0, int(np.searchsorted(self.times[:, 0], row_id, side="right")) - 1)
        return float(self.times[-1, 1] - self.times[place, 1])


def read_facts(path: Path, dataset: Dataset | None = None) -> Facts:
    """Reads what the files say beside their rows.

    Args:
        path: A folder, a file, or the id of a dataset whose files lie elsewhere.
        dataset: What was opened there; that of a memory knows the ids of its rows.

    Raises:
        DatasetError: There is a manifest, and it is damaged.
    """
    if not path.exists():
        return Facts(str(path), 0, None)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    changed_at = max((file.stat().st_mtime for file in files), default=None)
    when = None if changed_at is None else datetime.fromtimestamp(changed_at, UTC)
    name, disk_bytes = path.resolve().name, sum(file.stat().st_size for file in files)
    if not (path / MANIFEST).is_file():
        return Facts(name, disk_bytes, when)
    document, _ = read_manifest(path)
    try:
        body = memory_in(document)
        # Rings count their rows each by itself, so there is no age that holds for all.
        row_ids = None if len(rings_in(body)) > 1 else getattr(dataset, "row_ids", None)
        return Facts(name, disk_bytes, when, row_ids=row_ids, **_of_memory(body))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path / MANIFEST} must be what save writes, but: {error!r}") from error


def _of_memory(body: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of a memory; nothing if it is one of something else."""
    state: dict[str, Any] = body.get("state", {})
    store: dict[str, Any] = state.get("store") or {}
    newest: dict[str, int] = {}
    for worker, _, *place in store.get("streams", []):
        if place:
            newest[worker] = max(place[0], newest.get(worker, -1))
    tally = Tally()
    tally.restore(state.get("tally", []))
    return {
        "capacity": body.get("settings", {}).get("memory_size"),
        "tally": tally,
        "newest": newest,
        "times": np.array(store.get("times", []), np.float64).reshape(-1, 2),
    }
