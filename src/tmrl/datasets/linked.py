"""Rows that several streams share, as a memory holds them, sorted into episodes by following their links.

`back` of a row is the distance to the previous row of its episode: 0 at a reset, -1 after a gap. Rows of
interleaved streams need not be neighbours, and the oldest rows of an episode may be gone. An episode is
named by its first row that is there; each row finds it by jumping along the links, twice as far each time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.damage import damage_of_segments
from tmrl.datasets.dataset import About, Dataset, Episode
from tmrl.datasets.files import MANIFEST, read_manifest
from tmrl.datasets.priorities import damage_of_priorities
from tmrl.datasets.segments import (
    KIND,
    LINK,
    Segment,
    memory_in,
    read_links,
    read_rows,
    rings_in,
    segments_of,
)
from tmrl.errors import DatasetError
from tmrl.rows import GAP, NOBODY, Rows, join_rows, take_rows
from tmrl.schema import Nest, Schema
from tmrl.schema_json import schema_from_json

MAX_OPEN_SEGMENTS = 4


class LinkedRows(Dataset):
    """Episodes of rows that are linked, oldest first.

    Args:
        schema: The layout of the rows.
        about: What is known beside the rows.
        back: `(n,)` links of all rows.
        origin: `(n,)` numbers in `origins`; `NOBODY` where no row is.
        origins: Worker and source of each number.
        take: Copies the rows in `(k,)` places from 0 to n - 1, checked.
        oldest: Id of the first row.

    Raises:
        DatasetError: Two rows follow the same one, or an origin is not known.

    Attributes:
        row_ids: Ids of the rows, and of places within them where a row was lost.
    """

    def __init__(
        self,
        schema: Schema,
        about: About,
        back: NDArray[np.int32],
        origin: NDArray[np.int32],
        origins: Sequence[tuple[str, str]],
        take: Callable[[NDArray[np.int64]], Rows],
        oldest: int = 0,
    ) -> None:
        super().__init__(schema, about)
        if len(origin) and not NOBODY <= int(origin.min()) <= int(origin.max()) < len(origins):
            raise DatasetError("the rows contradict themselves: an origin is not known")
        self.row_ids = range(oldest, oldest + len(back))
        self._back = back
        self._origin = origin
        self._origins = origins
        self._take = take
        places, bounds = chains(back)
        n_rows = np.diff(bounds)
        is_there = origin[places[bounds[:-1]]] != NOBODY
        self._places = places[np.repeat(is_there, n_rows)]
        self._bounds = np.concatenate([[0], np.cumsum(n_rows[is_there])])

    @property
    def rows_per_episode(self) -> NDArray[np.int64]:
        """`(n_episodes,)` rows of each episode."""
        return np.diff(self._bounds)

    def episode(self, index: int) -> Episode:
        """Copies the rows of one episode; the one that began first is 0."""
        index = range(len(self))[index]
        places = self._places[self._bounds[index] : self._bounds[index + 1]]
        origin = self._origin[places]
        changes = (np.flatnonzero(np.diff(origin)) + 1).tolist()
        worker, source = self._origins[origin[0]]
        marks = tuple((change, self._origins[origin[change]][1]) for change in changes)
        return Episode(self._take(places), worker, source, bool(self._back[places[0]] == 0), marks)


def own_links(back: NDArray[np.int32]) -> NDArray[np.int32]:
    """The links of a ring, oldest row first, cut where they lead to rows that were evicted.

    Rows of another ring may stand in front of them, and must not be taken for those.
    """
    return np.where(back > np.arange(len(back)), GAP, back)


def chains(back: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorts linked rows into episodes.

    Args:
        back: `(n,)` links, oldest row first.

    Returns:
        The places of the rows, episode by episode, and where in them each episode begins, with n as the end.

    Raises:
        DatasetError: Two rows follow the same one.
    """
    places = np.arange(len(back))
    previous = places - back
    is_first = (back <= 0) | (previous < 0)
    followed = previous[~is_first]
    if len(np.unique(followed)) != len(followed):
        raise DatasetError("the rows contradict themselves: two of them follow the same one")
    root = np.where(is_first, places, previous)
    while True:
        further = root[root]
        if (further == root).all():
            break
        root = further
    return np.argsort(root, kind="stable"), np.append(
        np.flatnonzero(np.diff(np.sort(root), prepend=-1)), len(back)
    )


def is_snapshot(path: Path) -> bool:
    """Whether a folder holds a memory that was saved, alone or within a larger document."""
    if not (path / MANIFEST).is_file():
        return False
    body = memory_in(read_manifest(path)[0])
    return body.get("kind") == KIND


class SavedMemory(LinkedRows):
    """The rows of a memory that was saved. A file of rows is checked when its first row is read.

    Args:
        folder: The folder.

    Raises:
        DatasetError: It holds no such memory, or its manifest or its links are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._body = body = memory_in(read_manifest(folder)[0])
        nothing = Nest.infer("obs", ())
        try:
            schema = Schema(nothing, nothing) if body["schema"] is None else schema_from_json(body["schema"])
            origins = [(str(worker), str(source)) for worker, source, *_ in body["state"]["tally"]]
            rings = [(segments_of(folder, ring), int(ring["oldest"])) for ring in rings_in(body).values()]
            parts = [(segment, max(0, oldest - segment.first)) for ring, oldest in rings for segment in ring]
            links = [self._links(*ring) for ring in rings]
            self._segments, self._skipped = [part for part, _ in parts], [skipped for _, skipped in parts]
            oldest = max(rings[0][1], parts[0][0].first) if parts else 0
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{folder / MANIFEST} must be what save writes, but: {error!r}") from error
        back = np.concatenate([own_links(ring["back"]) for ring in links])
        origin = np.concatenate([ring["origin"] for ring in links])
        n_rows = [part.stop - part.first - skipped for part, skipped in parts]
        self._starts = np.cumsum([0, *n_rows]).tolist()
        self._opened = lru_cache(MAX_OPEN_SEGMENTS)(self._read_rows)
        super().__init__(schema, About("snapshot"), back, origin, origins, self._copy, oldest)

    def damage(self) -> Iterator[str]:
        """Reads every checksum, and names the first bad row of each damaged file by its id."""
        segments = map(asdict, self._segments)
        yield from damage_of_segments(self._folder, segments, self.schema.row_dtype, LINK)
        for ring in rings_in(self._body).values():
            yield from damage_of_priorities(self._folder, ring)

    def _links(self, segments: list[Segment], oldest: int) -> NDArray[np.void]:
        """The links of the rows of a ring from the oldest on."""
        links = [read_links(self._folder, part)[max(0, oldest - part.first) :] for part in segments]
        return np.concatenate([np.empty(0, LINK), *links])

    def _read_rows(self, place: int) -> Rows:
        return read_rows(self._folder, self._segments[place], self.schema.row_dtype)

    def _copy(self, places: NDArray[np.int64]) -> Rows:
        cuts = np.searchsorted(places, self._starts)
        parts = [
            take_rows(self._opened(place), places[first:stop] - self._starts[place] + self._skipped[place])
            for place, (first, stop) in enumerate(pairwise(cuts))
            if first < stop
        ]
        return join_rows(parts)
