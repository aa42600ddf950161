"""Store: ring, links and index of one schema wired together; rows go in as chunks and come out in blocks."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tmrl.chunk import Chunk
from tmrl.datasets.files import row_checks
from tmrl.datasets.stored_ring import Loss, links_of, pieces, plain_links
from tmrl.errors import DatasetError
from tmrl.memory.anchors import Anchors, Pairs
from tmrl.memory.late import LateValues
from tmrl.memory.samplers import Followed, Index, Sampler
from tmrl.memory.stats import ArrivalTimes, PolicyVersions, Tally
from tmrl.memory.storage import Storage
from tmrl.memory.streams import HeldRows, StreamTable
from tmrl.memory.table import Table
from tmrl.memory.waiting import Waiting
from tmrl.memory.windows import Window, expand
from tmrl.rows import Columns, Rows, take_rows
from tmrl.schema import Schema

COPIED_AT_ONCE = 1 << 26
"""Bytes of rows that a resize copies at a time."""

SUMMED_AT_ONCE = 1 << 19
"""Bytes of rows that are copied into a file, and then summed while they are in the cache.

Measured with rows of 98 KB and 1 MB of cache a core: appending to a folder took 1.18 to 1.23 times as long as
to RAM when all rows were copied first, and 1.12 to 1.13 times with pieces of 300 to 600 KB.
"""

SavedPriorities = tuple[int, NDArray[np.float64]]
"""The id of a row, and the priorities of that row and those after it."""


class Drawn(NamedTuple):
    """Which rows a batch was made of, so that their ids are computed only if somebody asks."""

    pairs: Pairs
    oldest: int
    next: int
    n_rows: int

    def ids(self) -> NDArray[np.int64]:
        """`(B,)` row ids of the anchors."""
        return self.ids_of(self.pairs[:, 1])

    def ids_of(self, slots: NDArray[np.int32]) -> NDArray[np.int64]:
        """Ids of the rows that were in these slots, in an array of their shape."""
        return self.oldest + (slots.astype(np.int64) - self.oldest) % self.n_rows

    def ages(self) -> NDArray[np.int64]:
        """`(B,)` rows that came after the anchors, until they were drawn."""
        return self.next - 1 - self.ids()


class Store:
    """The rows of one ring and the transitions between them.

    Args:
        schema: The layout of the rows.
        table: Where the rows are; if it holds some already, the store begins empty until `recover`.
        tally: Counts of where rows come from.
        window: Which transitions are anchors.
        sampler: What chooses among the transitions.
        storage: The folder that the table is in; None for RAM.
        source: Whose ring it is; `""` for all sources that have none of their own.
        streams: Where each stream stands, if other stores of the memory know it too.
    """

    def __init__(
        self,
        schema: Schema,
        table: Table,
        tally: Tally,
        window: Window,
        sampler: Sampler,
        storage: Storage | None = None,
        source: str = "",
        streams: StreamTable | None = None,
    ) -> None:
        self.schema = schema
        self._window = window
        self._layout = window.layout
        self.tally = tally
        self.times = ArrivalTimes()
        self.versions = PolicyVersions()
        self.streams = StreamTable() if streams is None else streams
        self.late_ids = np.empty(0, np.int64)
        """Ids of rows that were changed since the last snapshot."""
        self.sampler = sampler
        self._waiting = Waiting(window.waits) if window.waits else None
        self._storage = storage
        self._source = source
        self._number, self.ring, self._stored = table.rooms[source]
        self.table = table.whole
        """All rows of the memory by their slots, for a gather."""
        self.anchors = self._make_anchors()

    def _make_anchors(self) -> Anchors:
        anchors = Anchors(self.ring, self._layout.behind, self._window.stride)
        if self.sampler.follows:
            anchors.follower = self.sampler
            self.sampler.start(Followed(anchors, self.ring.origin, self.tally.source))
        return anchors

    @property
    def named_parts(self) -> "dict[str, Store]":
        """The stores that this one is made of, by their kept sources: itself, for all sources."""
        return {"": self}

    @property
    def index(self) -> Index:
        """What the sampler chooses from."""
        return self.anchors

    @property
    def capacity(self) -> int:
        """Most transitions to hold."""
        return self.ring.n_rows - 1

    @property
    def kept(self) -> dict[str, int]:
        """Source label to the capacity of its ring, of those that have one of their own: none."""
        return {}

    @property
    def n_rows(self) -> int:
        """Rows held."""
        return len(self.ring)

    @property
    def appended(self) -> int:
        """Rows taken in so far."""
        return self.ring.next

    def capacity_for(self, source: str | None) -> int:  # noqa: ARG002 - all sources share one ring
        """Most transitions of a source to hold; None stands for all sources."""
        return self.capacity

    def ring_sizes(self, slots: NDArray[np.int32]) -> int | NDArray[np.int64]:  # noqa: ARG002 - one ring
        """Rows of the ring that each window is in, for `(B, L)` slots of windows."""
        return self.ring.n_rows

    def ages_s(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """`(n,)` seconds since rows arrived, by their ids."""
        return self.times.ages_s(ids)

    def policy_versions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """`(n,)` versions of the policies that acted in rows, by their ids; 0 where none is known of."""
        return self.versions.of(ids)

    @property
    def newest_policy(self) -> int:
        """The newest policy that acted in a row; 0 before any did."""
        return self.versions.newest

    @property
    def bytes_full(self) -> int:
        """Bytes of rows and index when full, those on the disk included."""
        rows = self.ring if self._stored is None else self._stored
        return rows.n_bytes + self.anchors.n_bytes + self.sampler.row_bytes * self.ring.n_rows

    @property
    def bytes_now(self) -> int:
        """Bytes of the rows held and their index."""
        return self.bytes_full * len(self.ring) // self.ring.n_rows

    def append(self, chunk: Chunk) -> None:
        """Takes in the rows of a chunk that are new, evicting the oldest where there is no room."""
        if self._stored is None or len(chunk.rows) <= self.ring.n_rows // 2:
            self._append(chunk)
            return
        # A kill may take the rows that are about to be overwritten: never more than half of a ring at once.
        for part in chunk.parts(self.ring.n_rows // 2):
            self._append(part)

    def _append(self, chunk: Chunk) -> None:
        code = self.tally.code(chunk.stream.worker, chunk.source)
        if self._storage is not None:
            self.streams.code(chunk.stream)
            evicted_to = self.ring.next + len(chunk.rows) - self.ring.n_rows
            self._storage.announce(len(self.streams), len(self.tally.counts), self._source, evicted_to)
        linked = self.streams.link(chunk, self.ring.next, self._number)
        counts = self.tally.counts[code]
        counts.duplicates += linked.duplicates
        counts.gaps += linked.gap
        n = len(linked.rows)
        if n == 0:
            return
        counts.appended += n
        counts.evicted += max(0, n - self.ring.n_rows)
        self.times.note(self.ring.next)
        self.versions.note(self.ring.next, chunk.policy_version)
        self._evict(self.ring.make_room(n))
        first_id = self.ring.next
        if self._stored is not None:
            self._stored.begin(first_id, n)
        if n == 1:
            back = int(linked.back[0])
            self.ring.write_one(linked.rows, back, code, int(linked.place[0]))
            row_sums = None if self._stored is None else row_checks(linked.rows)
        else:
            row_sums = self._write(linked.rows, linked.columns(code))
        waiting = () if self._waiting is None else self.look_after(chunk.stream.worker)
        if n == 1:
            self.anchors.extend_one(first_id, int(linked.back[0]), self.ring.oldest, waiting)
        else:
            self.anchors.extend(first_id, linked.back, self.ring.oldest, waiting)
        if self._stored is not None and row_sums is not None:
            stream = self.streams.code(chunk.stream), linked.first_step, linked.episodes
            self._stored.commit(first_id, links_of(row_sums, linked.columns(code), first_id, *stream))

    def look_after(self, worker: str) -> Collection[int]:
        """Ends the wait of a worker's transitions that need not wait any more; returns rows that wait."""
        if self._waiting is None:
            return ()
        open_row = self.streams.open_row(worker, self._number)
        waiting, over = self._waiting.update(worker, open_row, self.ring)
        self.anchors.release(over)
        return waiting

    def _write(self, rows: Rows, columns: Columns) -> NDArray[np.uint64] | None:
        """Copies rows into the ring, and returns the checksums of all if they are in a file."""
        if self._stored is None:
            self.ring.write(rows, columns)
            return None
        row_sums: list[NDArray[np.uint64]] = []
        for part in pieces(len(rows), rows.dtype.itemsize, SUMMED_AT_ONCE):
            self.ring.write(rows[part], columns[part])
            row_sums.append(row_checks(rows[part]))
        return np.concatenate(row_sums)

    def write_late(self, values: LateValues) -> int:
        """Changes fields of the rows that are still held, and returns how many are not."""
        return len(values.ids) - self.rewrite(values, values.ids, np.ones(len(values.ids), np.bool_))

    def rewrite(self, values: LateValues, row_ids: NDArray[np.int64], is_here: NDArray[np.bool_]) -> int:
        """Changes fields of those of some rows that are held, and returns how many these are.

        Args:
            values: `(m,)` for each of them.
            row_ids: `(m,)` ids as this ring counts.
            is_here: `(m,)` which of them are of this ring.
        """
        ring = self.ring
        chosen = is_here & (row_ids >= ring.oldest) & (row_ids < ring.next)
        ids = row_ids[chosen]
        rows = take_rows(ring.rows, ids % ring.n_rows)
        values.apply(rows, chosen)
        if self._stored is None:
            ring.records[ids % ring.n_rows] = rows.view(ring.records.dtype)
        elif len(ids):
            self._stored.rewrite(ids, rows)
        self.late_ids = np.union1d(self.late_ids, ids)
        return len(ids)

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
        return self.drawn(self.anchors.pairs(ranks))

    def drawn(self, pairs: Pairs) -> Drawn:
        """Says of which rows the windows are."""
        return Drawn(pairs, self.ring.oldest, self.ring.next, self.ring.n_rows)

    def update_priorities(self, ids: NDArray[np.int64], td_errors: NDArray[np.float64]) -> int:
        """Sets priorities by row ids, and returns how many of the transitions are gone.

        Raises:
            ValueError: There never was such a row; no priority was changed.
        """
        check_ids(ids, self.ring.next)
        is_held = ids >= self.ring.oldest
        if not is_held.all():
            ids, td_errors = ids[is_held], td_errors[is_held]
        gone = len(is_held) - len(ids)
        return gone + self.sampler.update(ids % self.ring.n_rows, td_errors)

    def priorities(self) -> NDArray[np.float64] | None:
        """Priorities of the rows held, oldest first, 0 where no transition ends; None if there are none."""
        return self.sampler.priorities(self.ring.held_slots()) if self.sampler.has_priorities else None

    def expand(self, pairs: Pairs) -> NDArray[np.int32]:
        """The slots of whole windows, `(B, L)`."""
        return expand(pairs, self._layout, self.ring.back, self.anchors.following)

    def move(self, table: Table) -> None:
        """Goes on in another table, keeping the newest rows under the same ids.

        Args:
            table: Empty; the memory's from now on.
        """
        old, old_stored, priorities = self.ring, self._stored, self.priorities()
        _, ring, stored = table.rooms[self._source]
        held = range(max(old.oldest, old.next - ring.n_rows), old.next)
        step = max(1, COPIED_AT_ONCE // self.schema.row_dtype.itemsize)
        ring.oldest = ring.next = held.start
        for start in range(held.start, held.stop, step):
            ids = range(start, min(start + step, held.stop))
            ring.restore(ids.start, *old.copy_of(ids))
            if stored is not None and old_stored is not None:
                stored.copy_links(old_stored, ids)
        self._count_evicted(range(old.oldest, held.start))
        self.ring, self._stored, self.table = ring, stored, table.whole
        self.rebuild(None if priorities is None else (old.oldest, priorities))

    def restore(
        self,
        read_rows: Callable[[Callable[..., None]], None],
        state: dict[str, Any],
        saved: SavedPriorities | None = None,
    ) -> None:
        """Takes over rows and streams of a snapshot; the store must be empty.

        Args:
            read_rows: Calls what it is given with the first id, rows, links and origins of each segment.
            state: As `state` returned it.
            saved: Priorities of the rows; None if there are none.

        Raises:
            DatasetError: The rows contradict the rest of the snapshot.
        """
        read_rows(self._put_back)
        if len(self.ring) > self.ring.n_rows:
            raise DatasetError("the snapshot contradicts itself: it holds more rows than it says")
        check_codes(self.ring.origin[self.ring.held_slots()], -1, len(self.tally.counts))
        self.streams.restore(state["streams"])
        self.restore_history(state)
        self.rebuild(saved)

    def _put_back(self, first_id: int, rows: Rows, columns: Columns) -> None:
        self.ring.restore(first_id, rows, columns)
        if self._stored is not None:
            self._stored.commit(first_id, plain_links(rows, columns, first_id))

    def recover(self, next_id: int) -> tuple[HeldRows, Loss]:
        """Takes over the rows in its files; `rebuild` is to follow.

        Args:
            next_id: Id after that of the newest row when the manifest was written.

        Returns:
            What is known of the rows, and what was damaged or is missing.

        Raises:
            DatasetError: The rows that were being changed are damaged.
        """
        stored = self._stored
        if stored is None:
            raise ValueError("only rows in a storage can be recovered")
        stored.finish_rewriting()
        survey = stored.survey()
        loss = stored.repair(survey, next_id)
        self.ring.oldest, self.ring.next = survey.oldest, survey.next
        if survey.next == 0:  # not one row is left
            self.ring.oldest = self.ring.next = next_id
        slots = self.ring.held_slots()[survey.is_held]
        is_done = self.ring.rows["terminated"][slots] | self.ring.rows["truncated"][slots]
        links = stored.links[slots]
        places = links["stream"], links["step"], links["episode"], links["place"]
        return HeldRows(links["id"], links["origin"], *places, is_done), loss

    def state(self) -> dict[str, Any]:
        """Where each stream stands, and the history of its rows, as what `json.dumps` takes."""
        return {"streams": self.streams.state(), **self.history()}

    def history(self) -> dict[str, Any]:
        """When rows arrived and which policies acted in them, as what `json.dumps` takes."""
        return {"times": self.times.state(), "versions": self.versions.state()}

    def restore_history(self, state: dict[str, Any]) -> None:
        """Takes over what `history` returned; earlier versions of this package did not keep all of it."""
        self.times.restore(state["times"])
        self.versions.restore(state.get("versions", []))

    def rebuild(self, saved: SavedPriorities | None) -> None:
        """Makes the index anew from the links and from where the streams stand, all the truth there is.

        Args:
            saved: Priorities; those of the newest rows may be missing. None if there are none.
        """
        self.anchors = self._make_anchors()
        ring, slots = self.ring, self.ring.held_slots()
        waiting = (
            () if self._waiting is None else self._waiting.begin(self.streams.open_rows(self._number), ring)
        )
        self.anchors.extend(ring.oldest, ring.back[slots], ring.oldest, waiting)
        if saved is not None:
            first_id, priorities = saved
            ids = range(max(first_id, ring.oldest), min(first_id + len(priorities), ring.next))
            kept = np.zeros(len(slots))
            kept[ids.start - ring.oldest :][: len(ids)] = priorities[ids.start - first_id :][: len(ids)]
            self.sampler.restore_priorities(slots, kept)


def check_codes(codes: NDArray[np.int32], least: int, stop: int) -> None:
    """Checks that a manifest names the workers, or streams, that rows say they come from.

    Raises:
        DatasetError: It does not.
    """
    if not ((codes >= least) & (codes < stop)).all():
        raise DatasetError(
            "the rows contradict their manifest: they come from workers or streams that it does not name"
        )


def check_ids(ids: NDArray[np.int64], stop: int) -> None:
    """Checks that rows with these ids were appended.

    Raises:
        ValueError: There never was such a row.
    """
    is_strange = (ids < 0) | (ids >= stop)
    if is_strange.any():
        raise ValueError(
            f"ids must be those of batches of this memory, below {stop}, got {ids[is_strange][0]}; no "
            "priority was changed"
        )
