"""StoredRing: the rows of a ring and their links in memory-mapped files, a stretch of each.

A slot holds a row if, and only if, its id belongs there and the checksum is right. There is no header that
counts rows, so none can contradict them. To write, the ids of the slots are taken away first, then rows and
links are copied in, and last the ids: a process killed at any instruction leaves the rows before and the rows
after, and in between nothing, never a mixture. What a power cut or a disk has spoiled has the wrong checksum,
and is as if it had been lost on the way: no link leads over it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.files import row_checks
from tmrl.errors import DatasetError
from tmrl.rows import COLUMNS, GAP, NOBODY, Columns, Rows, put, record_dtype, take_rows

LINK = np.dtype(
    [
        ("id", np.int64),
        ("step", np.int64),
        ("episode", np.int64),
        ("back", np.int32),
        ("origin", np.int32),
        ("stream", np.int32),
        ("place", np.int32),
        ("check", np.uint64),
    ]
)
"""`id` is -1 where a slot is empty; `origin` and `stream` are places in the manifest's lists."""

CHECKED_AT_ONCE = 1 << 26
"""Bytes of rows that are checked, or copied, at a time."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Which rows two files hold."""

    oldest: int
    next: int
    """Id after that of the newest row."""
    is_held: NDArray[np.bool_]
    """`(next - oldest,)` whether the row with id `oldest + i` is there."""
    damaged: NDArray[np.int64]
    """Slots whose bytes are not what was written."""

    @classmethod
    def of_nothing(cls, damaged: NDArray[np.int64] | None = None) -> "Survey":
        """What is found where no row is."""
        nothing = np.empty(0, np.int64)
        return cls(0, 0, np.empty(0, np.bool_), nothing if damaged is None else damaged)


@dataclass(frozen=True, slots=True)
class Loss:
    """What is wrong with the rows of two files."""

    damaged: tuple[int, ...]
    """Ids of rows whose bytes are not what was written."""
    missing: int
    """Number of newest rows that the manifest knows of and that are not there."""

    def __len__(self) -> int:
        return len(self.damaged) + self.missing

    def __str__(self) -> str:
        told: list[str] = []
        if self.damaged:
            told.append(f"{len(self.damaged)} rows are damaged, the first is row {self.damaged[0]}")
        if self.missing:
            told.append(f"the newest {self.missing} rows are missing")
        return " and ".join(told)


class StoredRing:
    """A stretch of the two files, in which the rows of one ring live; row `i` is in slot `i % n_rows` of it.

    Args:
        rows: `(n_rows,)` rows, mapped.
        links: `(n_rows,)` of `LINK`, mapped.
        late: File for the rows that are being changed.

    Attributes:
        rows: As given.
        links: As given.
        n_rows: Rows when full.
    """

    def __init__(self, rows: Rows, links: NDArray[Any], late: Path) -> None:
        self.rows = rows
        self.links = links
        self.n_rows = len(rows)
        self._late = late

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows and their links."""
        return self.rows.nbytes + self.links.nbytes

    def begin(self, first_id: int, n: int) -> None:
        """Empties the slots of the rows `first_id, first_id + 1, ...`, about to be written."""
        put(self.links["id"], first_id % self.n_rows, np.full(n, -1))

    def commit(self, first_id: int, links: NDArray[Any]) -> None:
        """Makes rows that were copied in valid, with their links; see `links_of`."""
        slot = first_id % self.n_rows
        ids = links["id"].copy()
        links["id"] = -1
        put(self.links, slot, links)
        put(self.links["id"], slot, ids)

    def rewrite(self, ids: NDArray[np.int64], rows: Rows) -> None:
        """Changes rows that are held; after a kill each is as it was, or as it is to be.

        Args:
            ids: `(n,)` their ids, each once.
            rows: `(n,)` what they are to be.
        """
        slots = ids % self.n_rows
        links = self.links[slots]
        links["check"] = checks(rows, links)
        late = np.empty(len(ids), np.dtype([("links", LINK), ("row", record_dtype(rows.dtype))]))
        late["links"], late["row"] = links, rows.view(record_dtype(rows.dtype))
        draft = self._late.with_suffix(".tmp")
        with draft.open("wb") as stream:
            np.save(stream, late, allow_pickle=False)
        draft.replace(self._late)
        self._finish_late(late)

    def finish_rewriting(self) -> None:
        """Does what a process that was killed in `rewrite` had begun."""
        if not self._late.exists():
            return
        try:
            late = np.load(self._late, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DatasetError(f"{self._late} is damaged: {error}; remove it to go on without") from error
        row_dtype = record_dtype(self.rows.dtype)
        if late.dtype != np.dtype([("links", LINK), ("row", row_dtype)]):
            raise DatasetError(f"{self._late} holds rows of another layout; remove it to go on without")
        self._finish_late(late)

    def _finish_late(self, late: NDArray[Any]) -> None:
        rows, links = np.ascontiguousarray(late["row"]), late["links"]
        slots = links["id"] % self.n_rows
        is_right = checks(rows, links) == links["check"]
        # One that was overwritten meanwhile stays so.
        chosen = is_right & (self.links["id"][slots] == links["id"])
        self.rows.view(rows.dtype)[slots[chosen]] = rows[chosen]
        self.links["check"][slots[chosen]] = links["check"][chosen]
        self._late.unlink()

    def survey(self) -> Survey:
        """Looks at every slot: about 0.2 s for a million small rows, else the time to read the files."""
        n_rows, ids = self.n_rows, self.links["id"]
        is_placed = (ids >= 0) & (ids % n_rows == np.arange(n_rows))
        is_valid = is_placed & self._is_right(is_placed)
        damaged = np.flatnonzero(~is_valid & (ids != -1))
        if not is_valid.any():
            return Survey.of_nothing(damaged)
        newest = int(ids[is_valid].max())
        # A row of an earlier lap stands where a newer one has not reached the disk.
        is_valid &= ids > newest - n_rows
        oldest = int(ids[is_valid].min())
        slots = np.arange(oldest, newest + 1) % n_rows
        return Survey(oldest, newest + 1, is_valid[slots], damaged)

    def _is_right(self, is_placed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """In which of these slots the checksum is right."""
        is_right = np.zeros(self.n_rows, np.bool_)
        for part in pieces(self.n_rows, self.rows.dtype.itemsize):
            rows, links, chosen = self.rows[part], self.links[part], is_placed[part]
            if not chosen.all():
                rows, links = take_rows(rows, chosen), links[chosen]
            is_right[part][chosen] = checks(rows, links) == links["check"]
        return is_right

    def row_id(self, slot: int) -> int:
        """The id that a damaged slot gives, or that of the first row that it could hold."""
        row_id = int(self.links["id"][slot])
        return row_id if row_id >= 0 and row_id % self.n_rows == slot else slot

    def repair(self, survey: Survey, next_id: int) -> Loss:
        """Empties the slots of rows that are not there, and cuts the links that lead to them.

        Args:
            survey: What was found.
            next_id: Id after that of the newest row when the manifest was written.

        Returns:
            What was wrong.
        """
        lost = np.flatnonzero(~survey.is_held) + survey.oldest
        missing = range(max(survey.next, next_id - self.n_rows), next_id)
        # The bytes of a missing row may be spoiled, too: it is one row all the same.
        elsewhere = np.setdiff1d(survey.damaged, np.array(missing, np.int64) % self.n_rows)
        damaged = sorted(map(self.row_id, elsewhere.tolist()))
        self.links["id"][survey.damaged] = -1
        if len(lost):
            self.links["id"][lost % self.n_rows] = -1
            self.links["origin"][lost % self.n_rows] = NOBODY
            self.links["back"][lost % self.n_rows] = GAP
            self._cut_links(survey)
        return Loss(tuple(damaged), len(missing))

    def _cut_links(self, survey: Survey) -> None:
        ids = np.flatnonzero(survey.is_held) + survey.oldest
        slots = ids % self.n_rows
        slots = slots[_leads_nowhere(ids, self.links["back"][slots], survey.oldest, survey.is_held)]
        links = self.links[slots]
        links["back"] = GAP
        links["check"] = checks(take_rows(self.rows, slots), links)
        self.links[slots] = links

    def read(self, put: Callable[[int, Rows, Columns], None]) -> None:
        """Hands copies of the rows on, oldest first, also while another process goes on writing.

        Rows that it overwrites meanwhile are left out, as are damaged ones; no link leads to either.

        Args:
            put: Called with the first id, rows and columns of each stretch.
        """
        survey = self.survey()
        is_held = survey.is_held.copy()
        for part in pieces(len(is_held), self.rows.dtype.itemsize):
            ids = np.arange(part.start, part.stop) + survey.oldest
            rows, links, is_right = self.copy(ids)
            is_held[part] &= is_right
            put(ids[0], rows, linked(ids, links, survey.oldest, is_held))

    def copy(self, ids: NDArray[np.int64]) -> tuple[Rows, NDArray[Any], NDArray[np.bool_]]:
        """Copies rows and their links, and tells for each whether it is there and what was written."""
        slots = ids % self.n_rows
        rows, links = take_rows(self.rows, slots), self.links[slots]
        return rows, links, (links["id"] == ids) & (checks(rows, links) == links["check"])

    def copy_links(self, other: "StoredRing", ids: range) -> None:
        """Copies the links of rows from another file; the rows are copied already."""
        slots = np.arange(ids.start, ids.stop) % other.n_rows
        put(self.links, ids.start % self.n_rows, other.links[slots])


def linked(ids: NDArray[np.int64], links: NDArray[Any], oldest: int, is_held: NDArray[np.bool_]) -> Columns:
    """What stands beside rows, made good where rows are not there.

    Args:
        ids: `(n,)` their ids.
        links: `(n,)` what stands beside them.
        oldest: Id of the oldest row of all.
        is_held: Whether the row with id `oldest + i` is there.
    """
    is_there = is_held[ids - oldest]
    back = np.where(is_there, links["back"], GAP)
    back[_leads_nowhere(ids, back, oldest, is_held)] = GAP
    columns = np.empty(len(ids), COLUMNS)
    columns["back"], columns["place"] = back, links["place"]
    columns["origin"] = np.where(is_there, links["origin"], NOBODY)
    return columns


def _leads_nowhere(
    ids: NDArray[np.int64], back: NDArray[np.int32], oldest: int, is_held: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which links lead to a row that was not evicted and is not there."""
    previous = ids - back
    leads = (back > 0) & (previous >= oldest)
    leads[leads] = ~is_held[previous[leads] - oldest]
    return leads


def links_of(
    row_sums: NDArray[np.uint64],
    columns: Columns,
    first_id: int,
    stream: int,
    first_step: int,
    episodes: NDArray[np.int64],
) -> NDArray[Any]:
    """The links of consecutive rows of a stream, checksums included.

    Args:
        row_sums: `row_checks` of the rows, as they are stored.
        columns: What is to stand beside them.
        first_id: Id of the first of them.
        stream: Code of their stream.
        first_step: Number of the first of them in it.
        episodes: Number of the episode of each.
    """
    links = _links(columns, first_id, stream)
    links["step"] = np.arange(first_step, first_step + len(links))
    links["episode"] = episodes
    links["check"] = row_sums ^ _link_checks(links)
    return links


def plain_links(rows: Rows, columns: Columns, first_id: int) -> NDArray[Any]:
    """The links of rows whose places in their streams are not known any more."""
    links = _links(columns, first_id, -1)
    links["check"] = checks(rows, links)
    return links


def _links(columns: Columns, first_id: int, stream: int) -> NDArray[Any]:
    links = np.zeros(len(columns), LINK)
    links["id"] = np.arange(first_id, first_id + len(columns))
    links["stream"] = stream
    for name in COLUMNS.names or ():
        links[name] = columns[name]
    return links


def checks(rows: Rows, links: NDArray[Any]) -> NDArray[np.uint64]:
    """Checksums over rows and their links."""
    return row_checks(rows) ^ _link_checks(links)


def _link_checks(links: NDArray[Any]) -> NDArray[np.uint64]:
    return row_checks(links, LINK.itemsize - 8)


def pieces(n_rows: int, row_bytes: int, at_once: int = CHECKED_AT_ONCE) -> list[slice]:
    """Stretches of rows that are small enough to look at in one go: of at most so many bytes, if one fits."""
    step = max(1, at_once // row_bytes)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]
