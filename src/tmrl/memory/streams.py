"""Streams: which row follows which.

`back` of a row is the distance, in row ids, to the previous row of the same episode: 0 if the row begins an
episode, -1 after a gap (the row before it was lost, or is not known). Links never cross an episode, and two
rows are linked only if they are consecutive steps of one stream; nothing else makes a transition. Where a
memory has several rings (see `rings.py`), both have to be in the same one.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.chunk import PLAIN, Chunk, Stream
from tmrl.rows import COLUMNS, GAP, START, Columns, Rows

MAX_DISTANCE = int(np.iinfo(COLUMNS["back"]).max)
"""From a row to the one that it follows."""


@dataclass(slots=True)
class _Newest:
    """The newest row of a stream."""

    row_id: int
    step: int
    """Its number in the stream; samples without a stamp are counted here."""
    episode: int
    is_done: bool
    place: int
    ring: int = 0


@dataclass(frozen=True, slots=True)
class Linked:
    """What is new in a chunk, ready for the ring."""

    rows: Rows
    episodes: NDArray[np.int64]
    back: NDArray[np.int32]
    place: NDArray[np.int32]
    first_step: int
    """Number of the first row in its stream; the others follow."""
    duplicates: int
    """Rows dropped because their steps had been passed before: late, or sent twice."""
    gap: int
    """Steps missing before the first row."""

    def columns(self, origin: int) -> Columns:
        """What is to stand beside the rows, sent by `origin`."""
        columns = np.empty(len(self.rows), COLUMNS)
        columns["back"], columns["origin"], columns["place"] = self.back, origin, self.place
        return columns


@dataclass(frozen=True, slots=True)
class HeldRows:
    """What is known of each row that a ring holds, `(n,)` each, oldest first."""

    ids: NDArray[np.int64]
    origins: NDArray[np.int32]
    """Codes of who sent them."""
    streams: NDArray[np.int32]
    """Codes of their streams; -1 where they are not known, as after a load."""
    steps: NDArray[np.int64]
    episodes: NDArray[np.int64]
    places: NDArray[np.int32]
    is_done: NDArray[np.bool_]

    def lack(self, row_id: int) -> bool:
        """Whether a row that was not evicted is not there."""
        place = int(np.searchsorted(self.ids, row_id))
        is_held = place < len(self.ids) and int(self.ids[place]) == row_id
        return not is_held and (not len(self.ids) or row_id > int(self.ids[0]))

    def newest(self, n_streams: int) -> NDArray[np.int64]:
        """`(n_streams,)` places of the newest row of each stream; -1 where none is held."""
        last = np.full(n_streams, -1)
        is_known = self.streams >= 0
        np.maximum.at(last, self.streams[is_known], np.flatnonzero(is_known))
        return last

    def row(self, place: int, ring: int) -> _Newest:
        """The row in a place, of a ring with this number."""
        columns = (self.ids, self.steps, self.episodes, self.is_done, self.places)
        row_id, step, episode, is_done, in_episode = (column[place].item() for column in columns)
        return _Newest(row_id, step, episode, is_done, in_episode, ring)


class StreamTable:
    """Where each stream stands; links each chunk to what came before it."""

    def __init__(self) -> None:
        self._codes: dict[Stream, int] = {}
        self._lives: dict[str, int] = {}
        self._newest: dict[Stream, _Newest] = {}

    def __len__(self) -> int:
        """Number of streams that have a code."""
        return len(self._codes)

    def code(self, stream: Stream) -> int:
        """The code of a stream, new or known: its place in the order of first appearance."""
        code = self._codes.get(stream)
        if code is None:
            code = self._codes[stream] = len(self._codes)
            if stream.epoch >= 0 or stream.worker not in self._lives:
                self._lives[stream.worker] = stream.epoch
        return code

    def open_row(self, worker: str, ring: int = 0) -> int | None:
        """Id of a worker's newest row, if it is in a ring and may be followed: episode and life go on.

        A life ends when the next one begins, which is when its first rows come: epochs have no order.
        Datasets, whose epochs are negative, are whole as they are.
        """
        epoch = self._lives[worker]
        newest = self._newest.get(Stream(worker, epoch))
        is_open = newest is not None and newest.ring == ring and not newest.is_done and epoch >= 0
        return newest.row_id if newest is not None and is_open else None

    def open_rows(self, ring: int = 0) -> dict[str, int]:
        """What `open_row` says of each worker."""
        rows = {worker: self.open_row(worker, ring) for worker in self._lives}
        return {worker: row_id for worker, row_id in rows.items() if row_id is not None}

    def link(self, chunk: Chunk, next_id: int, ring: int = 0) -> Linked:
        """Finds out what a chunk's rows follow.

        Args:
            chunk: Rows about to be written.
            next_id: Id that the first row written will have.
            ring: Number of the ring that they are written to.
        """
        self.code(chunk.stream)
        newest = self._newest.get(chunk.stream)
        duplicates, gap = self._compare(chunk, newest)
        rows, starts = chunk.rows[duplicates:], chunk.starts[duplicates:]
        episodes = chunk.episodes[duplicates:]
        if not len(rows):
            nothing = np.empty(0, np.int32)
            return Linked(rows, episodes, nothing, nothing, 0, duplicates, 0)
        back = np.empty(len(rows), np.int32)
        done = rows["terminated"] | rows["truncated"]
        if len(rows) > 1:
            # A row may begin no episode and still follow nothing: a step before it was not collected, or the
            # environment was stepped on after the end.
            is_cut = done[:-1] | (episodes[1:] != episodes[:-1])
            back[1:] = np.where(starts[1:], START, np.where(is_cut, GAP, 1))
        first_step = self._first_step(chunk, newest, duplicates)
        if newest is not None and newest.ring != ring:
            newest = None  # it cannot be followed from another ring
        back[0] = START if starts[0] else self._first_link(chunk, newest, int(episodes[0]), next_id, gap)
        place = _places(back, 0 if newest is None else newest.place + 1)
        self._newest[chunk.stream] = _Newest(
            next_id + len(rows) - 1,
            first_step + len(rows) - 1,
            int(episodes[-1]),
            bool(done[-1]),
            int(place[-1]),
            ring,
        )
        return Linked(rows, episodes, back, place, first_step, duplicates, gap)

    @staticmethod
    def _compare(chunk: Chunk, newest: _Newest | None) -> tuple[int, int]:
        """How many rows of the chunk are not new, and how many steps are missing before it."""
        if newest is None or chunk.first_step is None:
            return 0, 0
        ahead = chunk.first_step - (newest.step + 1)
        return min(max(0, -ahead), len(chunk.rows)), max(0, ahead)

    @staticmethod
    def _first_step(chunk: Chunk, newest: _Newest | None, duplicates: int) -> int:
        """The number of the first row that is new."""
        if chunk.first_step is not None:
            return chunk.first_step + duplicates
        return 0 if newest is None else newest.step + 1

    @staticmethod
    def _first_link(chunk: Chunk, newest: _Newest | None, episode: int, next_id: int, gap: int) -> int:
        """The link of a first row that begins no episode by itself."""
        if newest is None or gap or not chunk.continues or newest.episode != episode:
            return GAP
        if newest.is_done:
            return START if chunk.stream == PLAIN else GAP
        distance = next_id - newest.row_id
        return distance if distance <= MAX_DISTANCE else GAP

    def state(self) -> list[list[Any]]:
        """Where each stream stands, in the order of the codes, as what `json.dumps` takes."""
        places = {stream: astuple(newest) for stream, newest in self._newest.items()}
        return [[*stream, *places.get(stream, ())] for stream in self._codes]

    def restore(self, state: list[list[Any]]) -> None:
        """Takes over what `state` returned."""
        streams = [Stream(*line[:2]) for line in state]
        self._codes, self._lives = {}, {}
        for stream in streams:
            self.code(stream)
        self._newest = {
            stream: _Newest(*line[2:]) for stream, line in zip(streams, state, strict=True) if line[2:]
        }

    def resume(self, rings: Sequence[HeldRows]) -> None:
        """Finds out where each stream stands from the rows that are held, which know it best.

        A stream whose newest row was evicted stands where `restore` said, for whatever came later would still
        be there. One whose newest rows are lost stands before them, so that they are taken in if they are
        sent again.

        Args:
            rings: What each ring holds.
        """
        self._newest = {
            stream: newest
            for stream, newest in self._newest.items()
            if not rings[newest.ring].lack(newest.row_id)
        }
        for ring, held in enumerate(rings):
            places = held.newest(len(self._codes)).tolist()
            for stream, place in zip(self._codes, places, strict=True):
                known = self._newest.get(stream)
                if place >= 0 and (known is None or held.steps[place] >= known.step):
                    self._newest[stream] = held.row(place, ring)


def _places(back: NDArray[np.int32], first: int) -> NDArray[np.int32]:
    """How many rows of its episode came before each row of a chunk; `first` if the first one is linked."""
    if len(back) == 1:
        return np.array([first if back[0] > 0 else 0], np.int32)
    indices = np.arange(len(back), dtype=np.int32)
    starts = np.maximum.accumulate(np.where(back <= 0, indices, -1))
    return np.where(starts < 0, indices + first, indices - starts).astype(np.int32)
