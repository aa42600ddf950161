"""Rings: a memory in which some sources have a ring of their own, so that no other data evicts them.

Each ring is an ordinary store, with its own index and sampler, and knows nothing of the others. What joins
them is here, and it is little:

- The rows of all rings lie in one table, one ring behind the other, the ring of all other sources first. A
  slot of the table names a row, so a batch of any rings is still one gather into one block.
- The id of a row is `number of the ring + number of rings * id within the ring`.
- `memory[i]` lists the rings in turn.
- Streams are known to all, for what is late or sent twice is so in any ring. But a link stays within a ring:
  where a stream changes from one to another, its episode is cut, as by a gap.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tmrl.chunk import Chunk
from tmrl.errors import DatasetError
from tmrl.memory.anchors import Anchors, Pairs
from tmrl.memory.late import LateValues
from tmrl.memory.mixture import Mixture
from tmrl.memory.ring import Ring
from tmrl.memory.samplers import Index, Sampler, Slots
from tmrl.memory.stats import Tally
from tmrl.memory.storage import Storage
from tmrl.memory.store import Store, check_ids
from tmrl.memory.streams import StreamTable
from tmrl.memory.table import Table
from tmrl.memory.windows import Window
from tmrl.schema import Schema

logger = logging.getLogger(__name__)


def check_room(n_transitions: int, kept: Mapping[str, int]) -> None:
    """Checks that kept sources leave room for the others.

    Raises:
        ValueError: They do not.
    """
    if kept and n_transitions <= sum(kept.values()):
        names = ", ".join(f"{source}: {n}" for source, n in kept.items())
        raise ValueError(
            f"memory_size must be above what is kept of sources ({names}), got {n_transitions}; choose a "
            "larger one, or keep fewer"
        )


def ring_sizes(n_transitions: int, kept: Mapping[str, int]) -> dict[str, int]:
    """Kept source to the rows of its ring; `""`, which comes first, is that of all others.

    Args:
        n_transitions: Most transitions to hold, all rings together.
        kept: Source label to how many of these are its own.

    Raises:
        ValueError: Kept sources leave no room for the others.
    """
    check_room(n_transitions, kept)
    # A transition needs two rows: one row more than transitions, if all are of one episode.
    return {source: n + 1 for source, n in {"": n_transitions - sum(kept.values()), **kept}.items()}


def kept_in(document: dict[str, Any]) -> dict[str, int]:
    """The kept sources of a memory that was saved, and the transitions for which each has room."""
    return {source: int(ring["n_rows"]) - 1 for source, ring in document.get("kept", {}).items()}


def check_kept(saved: Mapping[str, int], kept: Mapping[str, int]) -> None:
    """Checks that a memory keeps the sources that one that was saved kept, in their order.

    Raises:
        DatasetError: It does not.
    """
    if list(saved) != list(kept):
        raise DatasetError(
            f"the memory must keep the sources that the saved one kept, {dict(saved)}, got {dict(kept)}; "
            "make it with the same sampler, or append_dataset what was saved to a new one"
        )


class DrawnOfRings(NamedTuple):
    """Which rows a batch was made of, by slots of the table, so that ids are computed only if asked for."""

    pairs: Pairs
    bounds: list[tuple[int, int]]
    """Of each ring the ids of its oldest row and of the one after its newest."""
    starts: NDArray[np.int64]
    """Where in the table each ring begins."""
    sizes: NDArray[np.int64]
    """Rows of each ring."""

    def _own(self, slots: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each slot the number of its ring, and the id there of its row."""
        numbers = np.searchsorted(self.starts, slots, side="right") - 1
        oldest = np.array(self.bounds)[numbers, 0]
        return numbers, oldest + (slots - self.starts[numbers] - oldest) % self.sizes[numbers]

    def ids(self) -> NDArray[np.int64]:
        """`(B,)` row ids of the anchors."""
        return self.ids_of(self.pairs[:, 1])

    def ids_of(self, slots: NDArray[np.int32]) -> NDArray[np.int64]:
        """Ids of the rows that were in these slots of the table, in an array of their shape."""
        numbers, row_ids = self._own(slots)
        return numbers + len(self.bounds) * row_ids

    def ages(self) -> NDArray[np.int64]:
        """`(B,)` rows of the same ring that came after the anchors, until they were drawn."""
        numbers, row_ids = self._own(self.pairs[:, 1])
        return np.array(self.bounds)[numbers, 1] - 1 - row_ids


class Rings:
    """A store of several stores: that of the other sources, and one for each kept source.

    Args:
        schema: The layout of the rows.
        table: Where the rows are, a ring for each.
        tally: Counts of where rows come from.
        window: Which transitions are anchors.
        sampler: Draws from all of them.
        storage: The folder that the table is in; None for RAM.
    """

    def __init__(
        self,
        schema: Schema,
        table: Table,
        tally: Tally,
        window: Window,
        sampler: Mixture,
        storage: Storage | None = None,
    ) -> None:
        self.schema = schema
        self.tally = tally
        self._layout = window.layout
        self._sampler = sampler
        self._number_of = {source: room.number for source, room in table.rooms.items()}
        self._table = table
        self.streams = StreamTable()
        where = schema, table, tally, window
        self._kept = {
            source: Store(*where, sampler.sampler_of(source), storage, source, self.streams)
            for source in self._number_of
            if source
        }
        self._tell_sampler()  # before its own store begins
        self.named_parts = {"": Store(*where, sampler, storage, streams=self.streams), **self._kept}
        """The stores by their kept sources; `""` is the one of all others."""
        self.parts = list(self.named_parts.values())
        self.anchors = _AnchorsOfRings(self)

    def _tell_sampler(self) -> None:
        self._sampler.begin_kept(
            {
                source: KeptIndex(store, self.start_of(self._number_of[source]))
                for source, store in self._kept.items()
            }
        )

    @property
    def table(self) -> Ring:
        """All rows by their slots, for a gather."""
        return self._table.whole

    @property
    def kept(self) -> dict[str, int]:
        """Source label to the capacity of its ring."""
        return {source: store.capacity for source, store in self._kept.items()}

    @property
    def index(self) -> Index:
        """What the sampler is handed; the kept ones it knows."""
        return self.parts[0].anchors

    @property
    def capacity(self) -> int:
        """Most transitions to hold."""
        return sum(part.capacity for part in self.parts)

    @property
    def n_rows(self) -> int:
        """Rows held."""
        return sum(part.n_rows for part in self.parts)

    @property
    def appended(self) -> int:
        """Rows taken in so far."""
        return sum(part.appended for part in self.parts)

    @property
    def bytes_full(self) -> int:
        """Bytes of rows and index when full."""
        return sum(part.bytes_full for part in self.parts)

    @property
    def bytes_now(self) -> int:
        """Bytes of the rows held and their index."""
        return sum(part.bytes_now for part in self.parts)

    def capacity_for(self, source: str | None) -> int:
        """Most transitions of a source to hold; None stands for all sources."""
        return self.capacity if source is None else self.parts[self._number_of.get(source, 0)].capacity

    def append(self, chunk: Chunk) -> None:
        """Takes in the rows of a chunk that are new, evicting the oldest of the same ring if need be."""
        part = self.parts[self._number_of.get(chunk.source, 0)]
        part.append(chunk)
        for other in self.parts:
            if other is not part:
                other.look_after(chunk.stream.worker)

    def write_late(self, values: LateValues) -> int:
        """Changes fields of the rows that are still held, and returns how many are not."""
        row_ids, numbers = np.divmod(values.ids, len(self.parts))
        changed = (part.rewrite(values, row_ids, numbers == i) for i, part in enumerate(self.parts))
        return len(values.ids) - sum(changed)

    def update_priorities(self, ids: NDArray[np.int64], td_errors: NDArray[np.float64]) -> int:
        """Sets priorities by row ids, and returns how many of the transitions are gone.

        Raises:
            ValueError: There never was such a row; no priority was changed.
        """
        row_ids, numbers = np.divmod(ids, len(self.parts))
        for number, part in enumerate(self.parts):
            check_ids(ids[numbers == number], part.appended * len(self.parts) + number)
        return sum(
            part.update_priorities(row_ids[numbers == number], td_errors[numbers == number])
            for number, part in enumerate(self.parts)
        )

    # Drawing

    def numbers_of(self, slots: Slots) -> NDArray[np.int64]:
        """Numbers of the rings that slots of the table are in."""
        return np.searchsorted(self._table.starts, slots, side="right") - 1

    def start_of(self, number: int) -> int:
        """Where in the table a ring begins."""
        return int(self._table.starts[number])

    def draw(self, ranks: NDArray[np.int64]) -> DrawnOfRings:
        """Turns ranks of transitions into rows."""
        return self.drawn(self.anchors.pairs(ranks))

    def drawn(self, pairs: Pairs) -> DrawnOfRings:
        """Says of which rows the windows are."""
        bounds = [(part.ring.oldest, part.ring.next) for part in self.parts]
        return DrawnOfRings(pairs, bounds, self._table.starts, self._table.sizes)

    def expand(self, pairs: Pairs) -> NDArray[np.int32]:
        """The slots of whole windows, `(B, L)`."""
        if self._layout.n_rows == 2:
            return pairs
        numbers = self.numbers_of(pairs[:, 1])
        expanded = np.empty((len(pairs), self._layout.n_rows), np.int32)
        for number, part in enumerate(self.parts):
            chosen, start = np.flatnonzero(numbers == number), np.int32(self.start_of(number))
            if len(chosen):
                expanded[chosen] = part.expand(pairs[chosen] - start) + start
        return expanded

    def ring_sizes(self, slots: NDArray[np.int32]) -> NDArray[np.int64]:
        """`(B, 1)` rows of the ring that each window is in, for `(B, L)` slots of windows."""
        return self._table.sizes[self.numbers_of(slots[:, :1])]

    def ages_s(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """`(n,)` seconds since rows arrived, by their ids."""
        return self._of_rows(ids, lambda part, row_ids: part.ages_s(row_ids))

    def policy_versions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """`(n,)` versions of the policies that acted in rows, by their ids; 0 where none is known of."""
        versions = self._of_rows(ids, lambda part, row_ids: part.policy_versions(row_ids))
        return versions.astype(np.int64)

    @property
    def newest_policy(self) -> int:
        """The newest policy that acted in a row; 0 before any did."""
        return max(part.newest_policy for part in self.parts)

    def _of_rows(
        self, ids: NDArray[np.int64], of: Callable[[Store, NDArray[np.int64]], NDArray[Any]]
    ) -> NDArray[np.float64]:
        """What each part says of those rows that it holds."""
        row_ids, numbers = np.divmod(ids, len(self.parts))
        values = np.zeros(len(ids))
        for number, part in enumerate(self.parts):
            chosen = numbers == number
            if chosen.any():
                values[chosen] = of(part, row_ids[chosen])
        return values

    # Size, saving

    def move(self, table: Table) -> None:
        """Goes on in another table, keeping the newest rows of each ring under the same ids.

        Args:
            table: Empty, with a ring for each of the same sources; the memory's from now on.
        """
        self._table = table
        self._tell_sampler()
        for part in reversed(self.parts):  # that of the other sources last
            part.move(table)

    def state(self) -> dict[str, Any]:
        """Where each stream stands, and the history of the rows, as what `json.dumps` takes."""
        kept = {source: store.history() for source, store in self._kept.items()}
        return self.parts[0].state() | {"kept": kept}


AnyStore = Store | Rings


def store_in(
    table: Table, schema: Schema, tally: Tally, window: Window, sampler: Sampler, storage: Storage | None
) -> AnyStore:
    """The store whose rows are in a table, which from now on is the storage's; see `Rings`."""
    if storage is not None:
        storage.file = table.file
    where = schema, table, tally, window
    if len(table.rooms) > 1 and isinstance(sampler, Mixture):
        store = Rings(*where, sampler, storage)
    else:
        store = Store(*where, sampler, storage)
    row_bytes, megabytes = schema.row_dtype.itemsize, store.bytes_full / 1e6
    logger.info(
        "memory of %d transitions: %d bytes a row, %.1f MB when full", store.capacity, row_bytes, megabytes
    )
    return store


class _AnchorsOfRings:
    """The transitions of all rings, one ring after the other, by slots of the table."""

    def __init__(self, rings: Rings) -> None:
        self._rings = rings

    @property
    def _each(self) -> list[Anchors]:
        return [part.anchors for part in self._rings.parts]

    def __len__(self) -> int:
        return sum(map(len, self._each))

    @property
    def n_waiting(self) -> int:
        """Transitions that cannot be drawn yet."""
        return sum(anchors.n_waiting for anchors in self._each)

    def _bounds(self) -> NDArray[np.int64]:
        """The first rank of each ring."""
        return np.cumsum([0, *map(len, self._each[:-1])])

    def pairs(self, ranks: NDArray[np.int64]) -> Pairs:
        """The windows of the transitions with these ranks."""
        bounds, pairs = self._bounds(), np.empty((len(ranks), 2), np.int32)
        numbers = np.searchsorted(bounds, ranks, side="right") - 1
        for number, anchors in enumerate(self._each):
            chosen = np.flatnonzero(numbers == number)
            if len(chosen):
                pairs[chosen] = anchors.pairs(ranks[chosen] - bounds[number]) + self._start(number)
        return pairs

    def ranks(self, slots: Slots) -> NDArray[np.int64]:
        """The ranks of the transitions with anchors in these slots."""
        bounds, ranks = self._bounds(), np.empty(len(slots), np.int64)
        numbers = self._rings.numbers_of(slots)
        for number, anchors in enumerate(self._each):
            chosen = np.flatnonzero(numbers == number)
            if len(chosen):
                ranks[chosen] = anchors.ranks(slots[chosen] - self._start(number)) + bounds[number]
        return ranks

    def _start(self, number: int) -> np.int32:
        return np.int32(self._rings.start_of(number))


class KeptIndex:
    """The transitions of a kept source, by its own slots, but windows by slots of the table; an `Index`."""

    def __init__(self, store: Store, start: int) -> None:
        self._store = store
        self._start = np.int32(start)

    @property
    def n_rows(self) -> int:
        """See `Index`."""
        return self._store.ring.n_rows

    @property
    def oldest(self) -> int:
        """See `Index`."""
        return self._store.anchors.oldest

    @property
    def next(self) -> int:
        """See `Index`."""
        return self._store.anchors.next

    def __len__(self) -> int:
        return len(self._store.anchors)

    def pairs(self, ranks: NDArray[np.int64]) -> Pairs:
        """See `Index`."""
        return self._store.anchors.pairs(ranks) + self._start

    def pairs_at(self, slots: Slots) -> Pairs:
        """See `Index`."""
        return self._store.anchors.pairs_at(slots) + self._start

    def are_anchors(self, slots: Slots) -> NDArray[np.bool_]:
        """See `Index`."""
        return self._store.anchors.are_anchors(slots)
