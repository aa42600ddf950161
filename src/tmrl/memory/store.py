"""Store: ring, links and index of one schema wired together; rows go in as chunks and come out in blocks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tmrl.chunk import Chunk
from tmrl.errors import DatasetError
from tmrl.memory.anchors import Anchors, Pairs
from tmrl.memory.ring import Ring
from tmrl.memory.stats import ArrivalTimes, Tally
from tmrl.memory.streams import StreamTable
from tmrl.schema import Schema


class Drawn(NamedTuple):
    """Which rows a batch was made of, so that their ids are computed only if somebody asks."""

    pairs: Pairs
    oldest: int
    next: int
    n_rows: int

    def ids(self) -> NDArray[np.int64]:
        """`(B,)` row ids of the anchors."""
        return self.oldest + (self.pairs[:, 1].astype(np.int64) - self.oldest) % self.n_rows


class Store:
    """The rows of a memory and the transitions between them.

    Args:
        schema: The layout of the rows.
        n_transitions: Most transitions to hold.
        tally: Counts of where rows come from.
    """

    def __init__(self, schema: Schema, n_transitions: int, tally: Tally) -> None:
        self.schema = schema
        self.tally = tally
        # A transition needs two rows: one row more than transitions, if all are of one episode.
        self.ring = Ring(schema.row_dtype, n_transitions + 1)
        self.anchors = Anchors(n_transitions + 1)
        self.times = ArrivalTimes()
        self._streams = StreamTable()

    @property
    def bytes_full(self) -> int:
        """Bytes of rows and index when full."""
        return self.ring.n_bytes + self.anchors.n_bytes

    @property
    def bytes_now(self) -> int:
        """Bytes of the rows held and their index."""
        return self.bytes_full * len(self.ring) // self.ring.n_rows

    def append(self, chunk: Chunk) -> None:
        """Takes in the rows of a chunk that are new, evicting the oldest where there is no room."""
        linked = self._streams.link(chunk, self.ring.next)
        code = self.tally.code(chunk.stream.worker, chunk.source)
        counts = self.tally.counts[code]
        counts.duplicates += linked.duplicates
        counts.gaps += linked.gap
        n = len(linked.rows)
        if n == 0:
            return
        counts.appended += n
        counts.evicted += max(0, n - self.ring.n_rows)
        self.times.note(self.ring.next)
        self._evict(self.ring.make_room(n))
        first_id = self.ring.next
        if n == 1:
            back = int(linked.back[0])
            self.ring.write_one(linked.rows, back, code)
            self.anchors.extend_one(first_id, back, self.ring.oldest)
        else:
            self.ring.write(linked.rows, linked.back, code)
            self.anchors.extend(first_id, linked.back, self.ring.oldest)

    def _evict(self, ids: range) -> None:
        if ids:
            self.anchors.evict(ids)
            self._count_evicted(ids)

    def _count_evicted(self, ids: range) -> None:
        if len(ids) == 1:
            slot = ids.start % self.ring.n_rows
            self.tally.evict(self.ring.origin[slot : slot + 1])
        else:
            self.tally.evict(self.ring.origin[np.arange(ids.start, ids.stop) % self.ring.n_rows])

    def draw(self, ranks: NDArray[np.int64]) -> Drawn:
        """Turns ranks of transitions into rows."""
        return Drawn(self.anchors.pairs(ranks), self.ring.oldest, self.ring.next, self.ring.n_rows)

    def resize(self, n_transitions: int) -> None:
        """Changes the capacity, keeping the newest rows under the same ids."""
        ring = self.ring.resized(n_transitions + 1)
        self._count_evicted(range(self.ring.oldest, ring.oldest))
        self.ring = ring
        self._rebuild()

    def restore(self, read_rows: Callable[[Callable[..., None]], None], streams: list[list[Any]]) -> None:
        """Takes over rows and streams of a snapshot; the store must be empty.

        Args:
            read_rows: Calls what it is given with the first id, rows, links and origins of each segment.
            streams: As `StreamTable.state` returned them.

        Raises:
            DatasetError: The rows contradict the rest of the snapshot.
        """
        read_rows(self.ring.restore)
        origins = self.ring.origin[self.ring.held_slots()]
        if (
            len(self.ring) > self.ring.n_rows
            or not ((origins >= 0) & (origins < len(self.tally.counts))).all()
        ):
            raise DatasetError(
                "the snapshot contradicts itself: it holds more rows, or origins, than it says"
            )
        self._streams.restore(streams)
        self._rebuild()
        self.times.note(self.ring.oldest)

    def stream_state(self) -> list[list[Any]]:
        """Where each stream stands."""
        return self._streams.state()

    def _rebuild(self) -> None:
        """Makes the index anew from the links, which are all the truth there is."""
        self.anchors = Anchors(self.ring.n_rows)
        self.anchors.extend(self.ring.oldest, self.ring.back[self.ring.held_slots()], self.ring.oldest)
