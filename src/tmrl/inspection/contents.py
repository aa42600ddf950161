"""Contents: what is in a dataset, from one pass over its episodes in memory that hardly grows with it.

Episodes are read in blocks, so that the work for one is shared by many short ones, and a long one is taken
piece by piece. What is kept is a few numbers an episode, and for each leaf of the row its range. Rewards and
actions are those of transitions: a first row has none that led anywhere.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.dataset import About, Dataset, Episode
from tmrl.inspection.statistics import Extent, Histogram, Pooled
from tmrl.rows import Rows, record_dtype
from tmrl.schema import Leaf, Schema

BLOCK_BYTES = 1 << 23
BLOCK_EPISODES = 4096
MAX_COMPONENTS = 12
"""Of an action leaf, with a histogram of their own; those of a larger one share one histogram."""


@dataclass(frozen=True, slots=True)
class Action:
    """Statistics of one leaf of the action."""

    leaf: Leaf
    extent: Extent
    """A column for each component."""
    histograms: tuple[Histogram, ...]
    """One a component; a single one of all of them if they are more than `MAX_COMPONENTS`."""

    @property
    def labels(self) -> list[str]:
        """Names of the components, as in `act[0, 1]`."""
        if not self.leaf.shape:
            return [self.leaf.name]
        places = np.ndindex(self.leaf.shape)
        return [f"{self.leaf.name}[{', '.join(map(str, place))}]" for place in places]


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker, or a source, contributed."""

    name: str
    rows: int
    episodes: int
    mean_return: float
    """Of its whole episodes; NaN if it has none."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How numbers are spread; NaN where there are none."""

    n: int
    mean: float
    std: float
    low: float
    median: float
    high: float

    @staticmethod
    def of(values: NDArray[Any]) -> "Spread":
        """The spread of those that are finite."""
        values = values[np.isfinite(values)].astype(np.float64)
        if not len(values):
            return Spread(0, *[float("nan")] * 5)
        figures = (values.mean(), values.std(), values.min(), np.median(values), values.max())
        return Spread(len(values), *map(float, figures))


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a dataset. Arrays have one entry an episode, oldest first."""

    schema: Schema
    about: About
    ranges: dict[str, Pooled]
    """Of each leaf of the row but the checksums, by its name."""
    reward: Extent
    rewards: Histogram
    actions: tuple[Action, ...]
    rows_per_episode: NDArray[np.int64]
    returns: NDArray[np.float64]
    """Undiscounted, of whole episodes and parts."""
    begins: NDArray[np.bool_]
    is_terminated: NDArray[np.bool_]
    is_truncated: NDArray[np.bool_]
    worker_codes: NDArray[np.int64]
    source_codes: NDArray[np.int64]
    worker_names: tuple[str, ...]
    source_rows: dict[str, int]
    """Rows of each source; one episode may have rows of several, and counts for that of its first row."""

    @property
    def n_rows(self) -> int:
        """Samples, the resets included."""
        return int(self.rows_per_episode.sum())

    @property
    def n_episodes(self) -> int:
        """Episodes, whole ones and parts."""
        return len(self.rows_per_episode)

    @property
    def n_transitions(self) -> int:
        """Pairs of consecutive samples."""
        return self.n_rows - self.n_episodes

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Transitions of each episode."""
        return self.rows_per_episode - 1

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows."""
        return self.n_rows * self.schema.row_dtype.itemsize

    @property
    def is_ended(self) -> NDArray[np.bool_]:
        """Whether the last sample of each episode says that it was the last."""
        return self.is_terminated | self.is_truncated

    @property
    def is_whole(self) -> NDArray[np.bool_]:
        """Whether an episode is there from its reset to its end. Only then is its return one."""
        return self.begins & self.is_ended

    @property
    def workers(self) -> list[Share]:
        """What each worker contributed, the largest share first."""
        rows = np.bincount(self.worker_codes, self.rows_per_episode, len(self.worker_names))
        return self._shares(self.worker_names, self.worker_codes, rows.astype(np.int64).tolist())

    @property
    def sources(self) -> list[Share]:
        """What came from each source, the largest share first."""
        return self._shares(tuple(self.source_rows), self.source_codes, [*self.source_rows.values()])

    def _shares(self, names: tuple[str, ...], codes: NDArray[np.int64], rows: list[int]) -> list[Share]:
        n, whole = len(names), self.is_whole & np.isfinite(self.returns)
        sums = np.bincount(codes[whole], self.returns[whole], n)
        n_whole = np.bincount(codes[whole], minlength=n)
        means = np.where(n_whole > 0, sums / np.maximum(n_whole, 1), np.nan)
        columns = zip(names, rows, np.bincount(codes, minlength=n).tolist(), means.tolist(), strict=True)
        shares = [Share(*column) for column in columns]
        return sorted(shares, key=lambda share: -share.rows)


def read_contents(dataset: Dataset, on_rows: Callable[[int], object] = lambda _: None) -> Contents:
    """Reads all episodes once.

    Args:
        dataset: What to read.
        on_rows: Told how many rows were read since it was called last.

    Raises:
        DatasetError: The files are damaged.
    """
    reading = _Reading(dataset.schema)
    for block in _blocks(dataset):
        reading.add(block)
        on_rows(sum(len(episode.rows) for episode in block))
    return reading.contents(dataset.about)


def _blocks(dataset: Dataset) -> Iterator[list[Episode]]:
    block: list[Episode] = []
    n_bytes = 0
    for episode in dataset.episodes():
        block.append(episode)
        n_bytes += episode.rows.nbytes
        if n_bytes >= BLOCK_BYTES or len(block) == BLOCK_EPISODES:
            yield block
            block, n_bytes = [], 0
    if block:
        yield block


class _Reading:
    """What was read so far."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._record = record_dtype(schema.row_dtype)
        self._extents = {leaf.name: Extent() for leaf in schema.leaves if not _is_checksum(leaf)}
        self._reward = Extent(with_spread=True)
        self._rewards = Histogram()
        self._actions = [_action(leaf) for leaf in schema.act.leaves]
        self._of_transitions = {"rew", *(leaf.name for leaf in schema.act.leaves)}
        self._workers: dict[str, int] = {}
        self._source_rows: dict[str, int] = {}
        self._columns: list[tuple[NDArray[Any], ...]] = []

    def add(self, episodes: list[Episode]) -> None:
        rows = self._together(episodes)
        lengths = np.array([len(episode.rows) for episode in episodes])
        starts = np.cumsum(lengths) - lengths
        is_second = np.ones(len(rows), np.bool_)
        is_second[starts] = False
        self._add_episodes(episodes, rows, lengths, starts)
        step = max(1, BLOCK_BYTES // rows.dtype.itemsize)
        for start in range(0, len(rows), step):
            self._add_rows(rows[start : start + step], is_second[start : start + step])

    def _together(self, episodes: list[Episode]) -> Rows:
        if len(episodes) == 1:
            return np.asarray(episodes[0].rows)
        # As opaque records: NumPy joins those whole instead of field by field.
        records = [np.ascontiguousarray(episode.rows).view(self._record) for episode in episodes]
        return np.concatenate(records).view(self._schema.row_dtype)

    def _add_episodes(
        self, episodes: list[Episode], rows: Rows, lengths: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> None:
        rewards = rows["rew"].astype(np.float64)
        rewards[starts] = 0.0
        last = starts + lengths - 1
        for episode in episodes:
            for start, stop, source in episode.parts():
                self._source_rows[source] = self._source_rows.get(source, 0) + stop - start
        places = {source: place for place, source in enumerate(self._source_rows)}
        codes = [
            [self._workers.setdefault(episode.worker, len(self._workers)) for episode in episodes],
            [places[episode.source] for episode in episodes],
        ]
        with np.errstate(invalid="ignore"):
            returns = np.add.reduceat(rewards, starts)
        begins = np.array([episode.begins for episode in episodes])
        flags = rows["terminated"][last], rows["truncated"][last]
        self._columns.append((lengths, returns, begins, *flags, *map(np.array, codes)))

    def _add_rows(self, rows: Rows, is_second: NDArray[np.bool_]) -> None:
        for leaf in self._schema.leaves:
            if leaf.name not in self._extents:
                continue
            values = rows[leaf.name][is_second] if leaf.name in self._of_transitions else rows[leaf.name]
            self._extents[leaf.name].add(numbers(leaf, values).reshape(-1, 1))
        rewards = rows["rew"][is_second]
        self._reward.add(rewards.reshape(-1, 1))
        self._rewards.add(rewards)
        for action in self._actions:
            values = numbers(action.leaf, rows[action.leaf.name][is_second])
            values = values.reshape(len(values), -1 if values.size else len(action.extent.n))
            action.extent.add(values)
            columns = values.T if len(action.histograms) == len(action.extent.n) else [values.reshape(-1)]
            for histogram, column in zip(action.histograms, columns, strict=True):
                histogram.add(column)

    def contents(self, about: About) -> Contents:
        empty = [np.empty(0, kind) for kind in (int, float, bool, bool, bool, int, int)]
        columns = zip(*self._columns, strict=True) if self._columns else ([column] for column in empty)
        return Contents(
            self._schema,
            about,
            {name: extent.pooled() for name, extent in self._extents.items()},
            self._reward,
            self._rewards,
            tuple(self._actions),
            *map(np.concatenate, columns),
            worker_names=tuple(self._workers),
            source_rows=self._source_rows,
        )


def numbers(leaf: Leaf, values: NDArray[Any]) -> NDArray[Any]:
    """The values of a leaf as real numbers: bfloat16 from its bits, complex numbers as their size."""
    if leaf.is_bfloat16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.abs(values) if leaf.dtype.kind == "c" else values


def _action(leaf: Leaf) -> Action:
    n = int(np.prod(leaf.shape, dtype=np.int64))
    n_histograms = n if n <= MAX_COMPONENTS else 1
    return Action(leaf, Extent(n, with_spread=True), tuple(Histogram() for _ in range(n_histograms)))


def _is_checksum(leaf: Leaf) -> bool:
    return leaf.name.startswith("crc/")
