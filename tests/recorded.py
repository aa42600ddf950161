"""Datasets to look at: in memory, and saved memories read the plain way."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.damage import damage_of_segments
from tmrl.datasets.dataset import About, Dataset, Episode
from tmrl.datasets.files import read_manifest
from tmrl.errors import DatasetError
from tmrl.memory.ring import record_dtype
from tmrl.memory.snapshot import LINK, memory_in, read_segments
from tmrl.schema import Nest, Schema
from tmrl.schema_json import schema_from_json

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


class Saved(Listed):
    """The episodes of a saved memory."""

    def __init__(self, folder: Path) -> None:
        document, _ = read_manifest(folder)
        self._folder, self._body = folder, memory_in(document)
        schema = schema_from_json(self._body["schema"])
        super().__init__(schema, [], About("snapshot"))
        with suppress(DatasetError):
            self.list = self._episodes(schema)

    def _episodes(self, schema: Schema) -> list[Episode]:
        parts: list[tuple[Any, ...]] = []
        read_segments(self._folder, self._body, schema.row_dtype, lambda *part: parts.append(part))
        record = record_dtype(schema.row_dtype)
        rows = np.empty(sum(len(part[1]) for part in parts), schema.row_dtype)
        np.concatenate([part[1].view(record) for part in parts], out=rows.view(record))
        back, origin = (np.concatenate([part[i] for part in parts]) for i in (2, 3))
        places: dict[int, list[int]] = {}
        episodes: list[list[int]] = []
        for place, distance in enumerate(back.tolist()):
            before = places.pop(place - distance, None) if 0 < distance <= place else None
            episode = [] if before is None else before
            if before is None:
                episodes.append(episode)
            episode.append(place)
            places[place] = episode
        names = [line[:2] for line in self._body["state"]["tally"]]
        return [
            Episode(rows[episode], *names[origin[episode[0]]], begins=back[episode[0]] == 0)
            for episode in episodes
        ]

    def damage(self) -> Any:
        return damage_of_segments(self._folder, self._body["segments"], self.schema.row_dtype, LINK)
