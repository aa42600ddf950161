"""Datasets to look at, in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.dataset import About, Dataset, Episode
from tmrl.schema import Nest, Schema

ABOUT = About("native")
ACT = np.zeros(2, np.float32)


class Listed(Dataset):
    """Episodes in a list."""

    def __init__(self, schema: Schema, episodes: Sequence[Episode], about: About = ABOUT) -> None:
        super().__init__(schema, about)
        self.list = list(episodes)

    @property
    def rows_per_episode(self) -> NDArray[np.int64]:
        return np.array([len(episode.rows) for episode in self.list], np.int64)

    def episode(self, index: int) -> Episode:
        return self.list[index]


def schema_of(obs: Any, act: Any = ACT) -> Schema:
    """The schema of these examples."""
    return Schema(Nest.infer("obs", obs), Nest.infer("act", act))


def episode_of(
    schema: Schema,
    n_rows: int,
    rng: np.random.Generator,
    worker: str = "ann",
    source: str = "online",
    **end: bool,
) -> Episode:
    """Random rows of arbitrary finite numbers; flags as given by `terminated`, `truncated` and `begins`."""
    rows = np.zeros(n_rows, schema.row_dtype)
    for leaf in schema.leaves:
        shape = (n_rows, *leaf.shape)
        values = rng.integers(0, 2, shape) if leaf.dtype.kind == "b" else rng.normal(10, 50, shape)
        rows[leaf.name] = np.abs(values) if leaf.dtype.kind == "u" else values
    rows["terminated"], rows["truncated"] = False, False
    rows["terminated"][-1] = end.get("terminated", False)
    rows["truncated"][-1] = end.get("truncated", False)
    return Episode(rows, worker, source, end.get("begins", True))
