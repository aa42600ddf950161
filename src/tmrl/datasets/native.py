"""Our own folder of rows: written episode by episode, read without running what it holds.

    manifest.json         what the rows mean; the environment; who collected which episode
    <name>.rows.npy       rows of whole episodes, structured as the schema says
    <name>.checks.npy     a checksum of each row

Episodes lie one after the other, and none of them in two files, so that the number of rows of each is all the
index there is. `tmrl.datasets.files` says what makes a crash harmless.
"""

import secrets
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.dataset import About, Dataset, Episode
from tmrl.datasets.files import (
    MANIFEST,
    read_array,
    read_manifest,
    remove_others,
    replace_manifest,
    require_ours,
    row_checks,
    write_array,
)
from tmrl.datasets.spaces import environment_from_json, environment_to_json
from tmrl.errors import DatasetError
from tmrl.schema import Rows, Schema
from tmrl.schema_json import schema_from_json, schema_to_json

KIND = "dataset"
BYTES_PER_SEGMENT = 1 << 26
MAX_OPEN_SEGMENTS = 16
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

    def read_segment(self, place: int) -> Rows:
        """Maps the rows of one file, read-only, and checks them.

        Raises:
            DatasetError: It is missing or damaged.
        """
        segment = self.index.segments[place]
        name, n_rows = f"{segment.name}.rows.npy", segment.n_rows
        return read_array(self.folder, name, self.schema.row_dtype, n_rows, segment.rows_crc)


class DatasetWriter:
    """Writes episodes to a folder of our own format.

    Used in a `with` statement, it closes itself; after an exception, what was not on disk yet is left out.

    Args:
        folder: Made if need be; it must be empty, or `append` be true.
        schema: The layout of the rows.
        environment: Id of the environment.
        observation_space: The gymnasium space.
        action_space: Likewise.
        durable: Whether each episode is on the disk when `write` returns, in files of its own; otherwise
            episodes share files of about 64 MB, and the folder holds them when the writer is closed.
        append: Whether to go on with the dataset that the folder holds.

    Raises:
        DatasetError: The folder holds something else, or rows of another layout.
    """

    def __init__(
        self,
        folder: str | Path,
        schema: Schema,
        environment: str | None = None,
        observation_space: Any = None,
        action_space: Any = None,
        *,
        durable: bool = False,
        append: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.schema = schema
        self.durable = durable
        self._environment = environment_to_json(About("native", environment, observation_space, action_space))
        self._index = Index()
        self._known: int | None = None
        self._named: set[str] = set()
        self._waiting: list[Rows] = []
        self._is_open = True
        check_is_free(self.folder, append)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / MANIFEST).exists():
            self._go_on()
        remove_others(self.folder, self._named)

    def _go_on(self) -> None:
        dataset = NativeDataset(self.folder)
        if dataset.schema != self.schema:
            raise DatasetError(
                f"{self.folder} holds rows of another layout, {dataset.schema}, than what is to be appended, "
                f"{self.schema}; write to another folder"
            )
        self._index = dataset.index
        body, self._known = read_manifest(self.folder)
        self._environment = body["environment"]
        self._named = {segment.name for segment in self._index.segments}

    def write(self, episode: Episode) -> None:
        """Takes in one episode; its rows are copied.

        Raises:
            ValueError: Its rows have another layout, are none, or go on after the end of the episode.
            DatasetError: Somebody else wrote to the folder meanwhile.
        """
        rows = episode.rows
        if not self._is_open:
            raise ValueError(f"the writer of {self.folder} must be open, but it was closed; make another one")
        if rows.dtype != self.schema.row_dtype or not len(rows):
            raise ValueError(
                f"an episode must be at least 1 row of {self.schema}, got {rows.shape} of {rows.dtype}"
            )
        if (rows["terminated"][:-1] | rows["truncated"][:-1]).any():
            raise ValueError(
                "an episode must end with the first row that is terminated or truncated; cut it there"
            )
        # Until all of it is done: after an exception, the index may say more than the files hold.
        self._is_open = False
        self._waiting.append(rows if self.durable else rows.copy())
        labels = episode.worker, episode.source, episode.begins, episode.changes
        self._index.entries.append(Entry(len(rows), *labels))
        if self.durable:
            self._write_segment()
            self._name_all()
        elif sum(waiting.nbytes for waiting in self._waiting) >= BYTES_PER_SEGMENT:
            self._write_segment()
        self._is_open = True

    def close(self) -> None:
        """Puts everything on the disk; closing twice is the same as once."""
        if not self._is_open:
            return
        self._is_open = False
        if self._waiting:
            self._write_segment()
        if len(self._index.segments) != len(self._named) or self._known is None:
            self._name_all()

    def _write_segment(self) -> None:
        # The dtype by name: NumPy's own choice has no padding.
        rows = np.concatenate(self._waiting, dtype=self.schema.row_dtype)
        self._waiting = []
        name = f"{len(self._index.segments):08d}-{secrets.token_hex(4)}"
        rows_crc = write_array(self.folder / f"{name}.rows.npy", rows)
        checks_crc = write_array(self.folder / f"{name}.checks.npy", row_checks(rows))
        self._index.segments.append(Segment(name, len(rows), rows_crc, checks_crc))

    def _name_all(self) -> None:
        """Names all segments in the manifest."""
        is_there = (self.folder / MANIFEST).exists()
        if (read_manifest(self.folder)[1] if is_there else None) != self._known:
            raise DatasetError(
                f"{self.folder} was written to by somebody else meanwhile; one writer at a time"
            )
        body = {"kind": KIND, "schema": schema_to_json(self.schema), "environment": self._environment}
        self._known = replace_manifest(self.folder, body | self._index.to_json())
        self._named = {segment.name for segment in self._index.segments}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._is_open = False
            remove_others(self.folder, self._named)


def check_is_free(folder: Path, append: bool = False) -> None:
    """Checks that a dataset may be written to a folder.

    Raises:
        DatasetError: It holds something else, or a dataset that is not to be appended to.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DatasetError(f"{folder} must be a folder, but is a file; choose another name")
    if not (folder / MANIFEST).exists():
        require_ours(folder)
    elif not append:
        raise DatasetError(
            f"{folder} holds a {read_manifest(folder)[0].get('kind')} already; choose another folder"
        )


def is_native(path: Path) -> bool:
    """Whether a folder holds a dataset of our own."""
    return (path / MANIFEST).is_file() and read_manifest(path)[0].get("kind") == KIND


def write_native(dataset: Dataset, out: Path, drop: bool) -> list[str]:  # noqa: ARG001 - nothing is dropped
    """Writes a dataset to a new folder of our own format, which can hold all of it.

    Returns:
        No remarks.

    Raises:
        DatasetError: The folder holds something else.
    """
    about = dataset.about
    spaces = about.observation_space, about.action_space
    with DatasetWriter(out, dataset.schema, about.environment, *spaces) as writer:
        for episode in dataset.episodes():
            writer.write(episode)
    return []
