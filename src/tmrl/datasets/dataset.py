"""Dataset: what every source of recorded data looks like, whatever its files: a list of episodes of rows.

An importer turns one format into a `Dataset`, and everything that reads recorded data, a memory that begins
with them, an export, a report, reads this and knows no format. A new format is one new file.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import DatasetError
from tmrl.rows import Rows
from tmrl.schema import Schema


@dataclass(frozen=True, slots=True)
class Episode:
    """Consecutive samples of one episode, or what there is of it."""

    rows: Rows
    """`(L + 1,)` rows of L transitions, oldest first; not to be written to."""
    worker: str
    """Who collected them."""
    source: str
    """Label of where they come from; of the first rows, if `changes` says so."""
    begins: bool = True
    """Whether the first row is a reset; False if what came before it is not known."""
    changes: tuple[tuple[int, str], ...] = ()
    """Rows from which on another label holds, in their order: a human may intervene within an episode."""

    @property
    def length(self) -> int:
        """Number of transitions."""
        return len(self.rows) - 1

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of the rewards of the transitions."""
        return float(self.rows["rew"][1:].sum(dtype=np.float64))

    @property
    def is_terminated(self) -> bool:
        """Whether the last sample ended the episode in a state without a future."""
        return bool(self.rows["terminated"][-1])

    @property
    def is_truncated(self) -> bool:
        """Whether the last sample cut the episode short."""
        return bool(self.rows["truncated"][-1])

    def parts(self) -> Iterator[tuple[int, int, str]]:
        """Where the rows of one label begin and end, and the label."""
        marks = [(0, self.source), *self.changes, (len(self.rows), "")]
        for (start, source), (stop, _) in pairwise(marks):
            yield start, stop, source


@dataclass(frozen=True, slots=True)
class About:
    """What a dataset says about itself."""

    kind: str
    """The format: `native`, `minari`, `npz`, `pickle`, `snapshot`, `memory`."""
    environment: str | None = None
    """Id of the environment; None if the files do not say."""
    observation_space: Any = None
    """The gymnasium space; None if the files do not say."""
    action_space: Any = None
    """Likewise."""
    assumptions: tuple[str, ...] = ()
    """What the importer had to assume or leave out, one sentence each."""


class Dataset(ABC):
    """Episodes of one schema. Reading it never writes to its files.

    Args:
        schema: The layout of the rows.
        about: What is known beside the rows.
    """

    def __init__(self, schema: Schema, about: About) -> None:
        self.schema = schema
        self.about = about

    @property
    @abstractmethod
    def rows_per_episode(self) -> NDArray[np.int64]:
        """`(n_episodes,)` rows of each episode, each at least 1; cheap, no rows are read."""

    @abstractmethod
    def episode(self, index: int) -> Episode:
        """Reads and checks one episode; the oldest is 0.

        Raises:
            DatasetError: The files are damaged.
        """

    def episodes(self, first: int = 0) -> Iterator[Episode]:
        """Reads the episodes from `first` on, one at a time, oldest first."""
        for index in range(first, len(self)):
            yield self.episode(index)

    def damage(self) -> Iterator[str]:
        """Reads everything, and yields what is wrong, one sentence each; nothing if all is well.

        Here by reading every episode; a reader of files with a checksum for each row names the first bad one.
        """
        told: set[str] = set()
        for index in range(len(self)):
            try:
                self.episode(index)
            except DatasetError as error:
                # Episodes of one file share its damage.
                if str(error) not in told:
                    told.add(str(error))
                    yield str(error)

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.rows_per_episode)

    @cached_property
    def n_rows(self) -> int:
        """Number of rows of all episodes."""
        return int(self.rows_per_episode.sum())


class EpisodeList(Dataset):
    """Episodes that are in memory.

    Args:
        schema: The layout of the rows.
        about: What is known beside the rows.
        episodes: The oldest first; kept, and not copied.
    """

    def __init__(self, schema: Schema, about: About, episodes: Sequence[Episode]) -> None:
        super().__init__(schema, about)
        self._episodes = episodes

    @cached_property
    def rows_per_episode(self) -> NDArray[np.int64]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`(n_episodes,)` rows of each episode."""
        return np.array([len(episode.rows) for episode in self._episodes], np.int64)

    def episode(self, index: int) -> Episode:
        """One episode; the oldest is 0."""
        return self._episodes[index]


def cut(
    rows: Rows,
    starts: NDArray[np.bool_],
    begins: NDArray[np.bool_],
    workers: Sequence[str] | NDArray[np.str_],
    sources: NDArray[np.str_],
) -> list[Episode]:
    """Cuts rows into episodes.

    Args:
        rows: Of all episodes, oldest first; the episodes are views of them, and they become read-only.
        starts: `(n,)`; which rows are the first of an episode. Row 0 is.
        begins: `(n,)`; which of these are resets.
        workers: Who collected each row.
        sources: Label of each row.
    """
    rows.flags.writeable = False
    firsts = np.flatnonzero(starts).tolist()
    changed = np.zeros(len(rows), np.bool_)
    changed[1:] = (sources[1:] != sources[:-1]) & ~starts[1:]
    marks = np.flatnonzero(changed)
    episodes: list[Episode] = []
    for first, stop in pairwise([*firsts, len(rows)]):
        within = marks[np.searchsorted(marks, first) : np.searchsorted(marks, stop)].tolist()
        changes = tuple((mark - first, str(sources[mark])) for mark in within)
        worker, source = str(workers[first]), str(sources[first])
        episodes.append(Episode(rows[first:stop], worker, source, bool(begins[first]), changes))
    return episodes
