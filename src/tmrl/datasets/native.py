"""Our own folder of rows, read without running what it holds; `tmrl.datasets.writer` writes it.

    manifest.json         what the rows mean; the environment; who collected which episode
    <name>.rows.npy       rows of whole episodes, structured as the schema says
    <name>.checks.npy     a checksum of each row

Episodes lie one after the other, and none of them in two files, so that the number of rows of each is all the
index there is. `tmrl.datasets.files` says what makes a crash harmless.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.damage import damage_of_rows
from tmrl.datasets.dataset import About, Dataset, Episode
from tmrl.datasets.files import (
    MANIFEST,
    read_array,
    read_manifest,
)
from tmrl.datasets.spaces import environment_from_json
from tmrl.errors import DatasetError
from tmrl.rows import Rows
from tmrl.schema_json import schema_from_json

KIND = "dataset"
MAX_OPEN_SEGMENTS = 4
MAX_ROWS = 1 << 48


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of whole episodes in two files."""

    name: str
    n_rows: int
    rows_crc: int
    checks_crc: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of one episode."""

    n_rows: int
    worker: str
    source: str
    begins: bool
    changes: tuple[tuple[int, str], ...]


class Index:
    """Episodes and the files they are in; to and from JSON."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.entries: list[Entry] = []

    def to_json(self) -> dict[str, Any]:
        """As what `json.dumps` takes; worker and source of an episode are numbers in `origins`."""
        codes: dict[tuple[str, str], int] = {}
        numbers = [codes.setdefault((entry.worker, entry.source), len(codes)) for entry in self.entries]
        changes = ((i, entry.changes) for i, entry in enumerate(self.entries) if entry.changes)
        return {
            "segments": [asdict(segment) for segment in self.segments],
            "origins": [list(origin) for origin in codes],
            "episodes": {
                "rows": [entry.n_rows for entry in self.entries],
                "origin": numbers,
                "gaps": [i for i, entry in enumerate(self.entries) if not entry.begins],
                "changes": [[i, list(map(list, marks))] for i, marks in changes],
            },
        }

    @classmethod
    def from_json(cls, body: Any) -> "Index":
        """What `to_json` wrote.

        Raises:
            DatasetError: It is no such document, or contradicts itself.
        """
        index = cls()
        try:
            index.segments = [Segment(**fields) for fields in body["segments"]]
            origins = [(str(worker), str(source)) for worker, source in body["origins"]]
            episodes = body["episodes"]
            gaps = set(episodes["gaps"])
            changes = {
                i: tuple((int(row), str(label)) for row, label in marks) for i, marks in episodes["changes"]
            }
            counts = zip(episodes["rows"], episodes["origin"], strict=True)
            index.entries = [
                Entry(n_rows, origins[origin][0], origins[origin][1], i not in gaps, changes.get(i, ()))
                for i, (n_rows, origin) in enumerate(counts)
            ]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DatasetError(
                f"its list of episodes must be what this package writes, but: {error!r}"
            ) from error
        index.check()
        return index

    def check(self) -> None:
        """Checks that the episodes fill the segments.

        Raises:
            DatasetError: They do not, or labels change outside of their episode.
        """
        episodes = [entry.n_rows for entry in self.entries]
        segments = [segment.n_rows for segment in self.segments]
        if not all(type(n_rows) is int and n_rows > 0 for n_rows in episodes + segments):
            raise DatasetError("it contradicts itself: an episode, or a file, must have at least 1 row")
        total = sum(episodes)
        if (
            total > MAX_ROWS
            or total != sum(segments)
            or not {*accumulate(episodes)} >= {*accumulate(segments)}
        ):
            raise DatasetError("it contradicts itself: its episodes do not fill its files")
        for entry in self.entries:
            rows = [0, *(row for row, _ in entry.changes), entry.n_rows]
            if rows != sorted(set(rows)):
                raise DatasetError("it contradicts itself: a label changes outside of its episode")


class NativeDataset(Dataset):
    """A folder that `DatasetWriter` wrote. A file is checked when its first row is read.

    Args:
        folder: The folder.

    Raises:
        DatasetError: It holds no dataset, or its manifest is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        body, _ = read_manifest(self.folder)
        if body.get("kind") != KIND:
            raise DatasetError(f"{folder} must hold a dataset, found a {body.get('kind')}")
        try:
            schema = schema_from_json(body.get("schema"))
            about = About("native", **environment_from_json(body.get("environment")))
            self.index = Index.from_json(body)
        except DatasetError as error:
            raise DatasetError(f"{self.folder / MANIFEST} cannot be read: {error}") from error
        super().__init__(schema, about)
        self._starts = np.cumsum([0, *self.rows_per_episode])
        self._segment_stops = np.cumsum([segment.n_rows for segment in self.index.segments], dtype=np.int64)
        self._opened = lru_cache(MAX_OPEN_SEGMENTS)(self.read_segment)

    @cached_property
    def rows_per_episode(self) -> NDArray[np.int64]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`(n_episodes,)` rows of each episode."""
        return np.array([entry.n_rows for entry in self.index.entries], np.int64)

    def episode(self, index: int) -> Episode:
        """Reads one episode; the oldest is 0. Its rows are mapped, not copied.

        Raises:
            DatasetError: The file is missing or damaged.
        """
        entry = self.index.entries[index]
        start = int(self._starts[index % len(self)])
        place = int(np.searchsorted(self._segment_stops, start, side="right"))
        stop = int(self._segment_stops[place])
        first = start - (stop - self.index.segments[place].n_rows)
        rows = self._opened(place)[first : first + entry.n_rows]
        return Episode(rows, entry.worker, entry.source, entry.begins, entry.changes)

    def damage(self) -> Iterator[str]:
        """Reads every checksum, and names the first bad row of each damaged file, counted from the oldest."""
        for stop, segment in zip(self._segment_stops.tolist(), self.index.segments, strict=True):
            n_rows, name = segment.n_rows, segment.name
            checks = self.folder, f"{name}.checks.npy", np.dtype(np.uint64), n_rows, segment.checks_crc
            rows = self.folder, f"{name}.rows.npy", self.schema.row_dtype, n_rows, segment.rows_crc
            yield from damage_of_rows(*rows, stop - n_rows, partial(read_array, *checks))

    def read_segment(self, place: int) -> Rows:
        """Maps the rows of one file, read-only, and checks them.

        Raises:
            DatasetError: It is missing or damaged.
        """
        segment = self.index.segments[place]
        name, n_rows = f"{segment.name}.rows.npy", segment.n_rows
        return read_array(self.folder, name, self.schema.row_dtype, n_rows, segment.rows_crc)


def is_native(path: Path) -> bool:
    """Whether a folder holds a dataset of our own."""
    return (path / MANIFEST).is_file() and read_manifest(path)[0].get("kind") == KIND
