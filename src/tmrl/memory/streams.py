"""Streams: which row follows which.

`back` of a row is the distance, in row ids, to the previous row of the same episode: 0 if the row begins an
episode, -1 after a gap (the row before it was lost, or is not known). Links never cross an episode, and two
rows are linked only if they are consecutive steps of one stream; nothing else makes a transition.
"""

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.chunk import PLAIN, Chunk, Stream
from tmrl.schema import Rows

START = 0
GAP = -1


@dataclass(slots=True)
class _Newest:
    """The newest row of a stream."""

    row_id: int
    step: int
    episode: int
    is_done: bool


@dataclass(frozen=True, slots=True)
class Linked:
    """What is new in a chunk, ready for the ring."""

    rows: Rows
    back: NDArray[np.int32]
    duplicates: int
    """Rows dropped because their steps had been passed before: late, or sent twice."""
    gap: int
    """Steps missing before the first row."""


class StreamTable:
    """Where each stream stands; links each chunk to what came before it."""

    def __init__(self) -> None:
        self._newest: dict[Stream, _Newest] = {}

    def link(self, chunk: Chunk, next_id: int) -> Linked:
        """Finds out what a chunk's rows follow.

        Args:
            chunk: Rows about to be written.
            next_id: Id that the first row written will have.
        """
        newest = self._newest.get(chunk.stream)
        duplicates, gap = self._compare(chunk, newest)
        rows, starts = chunk.rows[duplicates:], chunk.starts[duplicates:]
        episodes = chunk.episodes[duplicates:]
        if not len(rows):
            return Linked(rows, np.empty(0, np.int32), duplicates, 0)
        back = np.empty(len(rows), np.int32)
        done = rows["terminated"] | rows["truncated"]
        if len(rows) > 1:
            # A row may begin no episode and still follow nothing: a step before it was not collected, or the
            # environment was stepped on after the end.
            is_cut = done[:-1] | (episodes[1:] != episodes[:-1])
            back[1:] = np.where(starts[1:], START, np.where(is_cut, GAP, 1))
        back[0] = START if starts[0] else self._first_link(chunk, newest, int(episodes[0]), next_id, gap)
        last_step = 0 if chunk.first_step is None else chunk.first_step + len(chunk.rows) - 1
        self._newest[chunk.stream] = _Newest(
            next_id + len(rows) - 1, last_step, int(episodes[-1]), bool(done[-1])
        )
        return Linked(rows, back, duplicates, gap)

    @staticmethod
    def _compare(chunk: Chunk, newest: _Newest | None) -> tuple[int, int]:
        """How many rows of the chunk are not new, and how many steps are missing before it."""
        if newest is None or chunk.first_step is None:
            return 0, 0
        ahead = chunk.first_step - (newest.step + 1)
        return min(max(0, -ahead), len(chunk.rows)), max(0, ahead)

    @staticmethod
    def _first_link(chunk: Chunk, newest: _Newest | None, episode: int, next_id: int, gap: int) -> int:
        """The link of a first row that begins no episode by itself."""
        if newest is None or gap or not chunk.continues or newest.episode != episode:
            return GAP
        if newest.is_done:
            return START if chunk.stream == PLAIN else GAP
        distance = next_id - newest.row_id
        return distance if distance <= np.iinfo(np.int32).max else GAP

    def state(self) -> list[list[Any]]:
        """Where each stream stands, as what `json.dumps` takes."""
        return [[*stream, *astuple(newest)] for stream, newest in self._newest.items()]

    def restore(self, state: list[list[Any]]) -> None:
        """Takes over what `state` returned."""
        self._newest = {Stream(*line[:2]): _Newest(*line[2:]) for line in state}
