"""Whole observations out of rows that a `History` compressed, for formats that know no histories.

What a stack or a buffer of actions repeats lies in earlier rows of the episode. At an episode's start the
reset row stands in for those before it, as everywhere. After a gap nobody knows them, so the first samples
there are left out, and counted.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.dataset import Dataset, Episode
from tmrl.errors import DatasetError
from tmrl.history import History
from tmrl.rows import Rows
from tmrl.schema import Schema, Source


def whole(dataset: Dataset, drop: bool) -> tuple[Dataset, list[str]]:
    """A dataset whose observations are as the actor saw them; rows are rebuilt as they are read.

    Args:
        dataset: One without a history is returned as it is.
        drop: Whether to leave out samples whose observations cannot be rebuilt; otherwise they are an error.

    Returns:
        The dataset, and what is left out of it, one sentence each.

    Raises:
        DatasetError: An observation cannot be rebuilt and `drop` is false, or the files are damaged.
    """
    if dataset.schema.history is None:
        return dataset, []
    made = WholeDataset(dataset, dataset.schema.history)
    n_lost = dataset.n_rows - made.n_rows
    if not n_lost:
        return made, []
    loss = f"{n_lost} samples after a gap, whose observations need samples that are not there"
    if not drop:
        raise DatasetError(f"cannot make whole {loss}; give drop=True (--drop) to do without")
    return made, [loss]


class WholeDataset(Dataset):
    """A dataset with its observations rebuilt.

    Args:
        dataset: What it is made of.
        history: That of its rows.
    """

    def __init__(self, dataset: Dataset, history: History) -> None:
        compressed, about = dataset.schema, dataset.about
        remark = f"observations were made whole, by {history}"
        super().__init__(
            Schema(compressed.seen, compressed.act, compressed.info, compressed.with_crc),
            replace(about, assumptions=(*about.assumptions, remark)),
        )
        self._dataset = dataset
        self._behind = history.behind

    @cached_property
    def _left(self) -> list[tuple[int, int]]:
        """The episodes that something is left of, and the first row of it; reads every episode once."""
        firsts = (0 if episode.begins else self._behind for episode in self._dataset.episodes())
        counts = self._dataset.rows_per_episode
        return [(i, first) for i, first in enumerate(firsts) if first < counts[i]]

    @cached_property
    def rows_per_episode(self) -> NDArray[np.int64]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`(n_episodes,)` rows of each episode; the first call reads every episode."""
        counts = self._dataset.rows_per_episode
        return np.array([counts[i] - first for i, first in self._left], np.int64)

    def episode(self, index: int) -> Episode:
        """One episode, its rows made anew; the oldest is 0."""
        place, first = self._left[index]
        episode = self._dataset.episode(place)
        labels = [
            (max(start, first) - first, label) for start, stop, label in episode.parts() if stop > first
        ]
        rows = self._rebuilt(episode.rows)[first:]
        return Episode(rows, episode.worker, labels[0][1], episode.begins, tuple(labels[1:]))

    def _rebuilt(self, compressed: Rows) -> Rows:
        rows = np.zeros(len(compressed), self.schema.row_dtype)
        sources = zip(self.schema.obs.leaves, self._dataset.schema.sources, strict=True)
        rebuilt = {leaf.name: _column(compressed, source) for leaf, source in sources}
        for leaf in self.schema.leaves:
            rows[leaf.name] = rebuilt[leaf.name] if leaf.name in rebuilt else compressed[leaf.name]
        return rows


def _column(rows: Rows, source: Source) -> NDArray[np.generic]:
    """A leaf of each row's observation; what lies before the first row is that row."""
    places = np.arange(len(rows)) - source.back
    if source.depth:
        places = places[:, None] + np.arange(1 - source.depth, 1)
    values = rows[source.leaf.name][np.maximum(places, 0)]
    return values if source.codec is None else source.codec.decode(values)
