"""MemoryState: all that a ready-made memory is, apart from how it hands out; what is saved and loaded.

It takes samples in, keeps them in a store, and writes all of it down: into the folder that the memory lives
in (`storage.py`), or as a snapshot beside it (`snapshot.py`). One lock makes each happen at one instant.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tmrl.buffer import Buffer
from tmrl.chunk import Chunk
from tmrl.datasets.dataset import Dataset
from tmrl.datasets.row_file import info_in
from tmrl.datasets.segments import ring_in
from tmrl.datasets.stored_ring import LINK
from tmrl.errors import DatasetError, EmptyMemoryError, EvictedRowError, SchemaError, StorageError, TmrlError
from tmrl.memory.anchors import INDEX_BYTES
from tmrl.memory.from_dataset import check_layout, choose, chunks_of_dataset
from tmrl.memory.intake import Intake
from tmrl.memory.late import LateValues
from tmrl.memory.recovery import recover, state_in
from tmrl.memory.rings import AnyStore, check_kept, check_room, kept_in, ring_sizes, store_in
from tmrl.memory.samplers import Index, Sampler, Uniform
from tmrl.memory.size import checked_size, transitions_within
from tmrl.memory.snapshot import NOTHING, RingToSave, write_snapshot
from tmrl.memory.stats import Tally
from tmrl.memory.storage import Storage
from tmrl.memory.store import SavedPriorities, Store
from tmrl.memory.table import Table, make_table
from tmrl.memory.windows import Window
from tmrl.packing import worker_of
from tmrl.rows import COLUMNS, Columns, Rows
from tmrl.schema import Schema
from tmrl.schema_json import schema_from_json, schema_to_json

logger = logging.getLogger(__name__)

SAVE_ATTEMPTS = 3
"""Saves that appends may outrun, evicting rows before they are copied, until appends have to wait."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What the memory tells of itself, and is told, when its state is written or read."""

    settings: Callable[[], dict[str, Any]]
    """Arguments to make it with again."""
    counters: Callable[[], dict[str, Any]]
    restore_counters: Callable[[dict[str, Any]], None]


class MemoryState:
    """Rows, where each stream stands, counts, random numbers.

    Args:
        owner: The memory.
        intake: Its door.
        sampler: Its draws.
        window: What a draw expands to.
        storage: The folder that it lives in; None for RAM.

    Attributes:
        lock: Held by whoever reads or changes any of this.
        tally: Counts of where rows come from.
        store: The rows; None until the layout is known.
        size: As given: a number of transitions, or a budget of bytes.
        damaged: Rows found damaged or missing whenever the storage was opened.
        writes_ignored: Late writes to rows that were gone.
    """

    def __init__(
        self, owner: Owner, intake: Intake, sampler: Sampler, window: Window, storage: Storage | None
    ) -> None:
        self.lock = threading.RLock()
        self.intake = intake
        self.sampler = sampler
        self.window = window
        self.storage = storage
        self.tally = Tally()
        self.store: AnyStore | None = None
        self.size: int | str = 1
        self.damaged = 0
        self.writes_ignored = 0
        self.before_change: Callable[[], None] = lambda: None
        """Called with the lock held before anything changes that a draw depends on, or is written down."""
        self._owner = owner
        self._save_lock = threading.Lock()
        self._flush_lock = threading.RLock()  # taken before `lock`
        self._snapshot: int | None = None
        self._is_closed = False
        self._is_filling = False
        self._is_recovered = False
        if storage is not None:
            storage.contents = self._storage_contents

    # Taking in

    def append(self, buffer: Buffer, source: str, continues: bool) -> None:
        """Checks and stores the samples of a Buffer, all or none."""
        with self.lock:
            self._check_open()
            self.before_change()
            waiting = self.intake.waiting
            try:
                chunks = self.intake.take(buffer, source, continues)
            except TmrlError:
                for sample in buffer.memory:
                    self.tally.of(worker_of(sample), source).refused += 1
                raise
            if self.intake.schema is None:
                self._commit()  # samples that wait to be understood
                return
            store = self._store_for(self.intake.schema, waiting)
            for chunk in chunks:
                store.append(chunk)

    def append_dataset(self, dataset: Dataset, source: str | None) -> None:
        """Appends recorded episodes, see `ReplayMemory.append_dataset`."""
        with self.lock:
            self._check_open()
            if not len(dataset):
                choose(dataset, 1)
                return
            self.before_change()
            schema = self.intake.schema_for(dataset.schema)
            check_layout(schema, dataset.schema)
            waiting = self.intake.waiting
            packer, earlier = self.intake.adopt(schema)
            store = self._store_for(schema, waiting)
            for chunk in earlier:
                store.append(chunk)
            first = choose(dataset, store.capacity_for(source))
            # No worker has a negative epoch, and no two datasets begin with one row.
            epoch = -1 - store.appended
        for chunk in chunks_of_dataset(dataset, first, schema, packer, source, epoch):
            with self.lock:
                self.before_change()
                store.append(chunk)

    def write_late(self, ids: Any, values: dict[str, Any]) -> None:
        """Changes stored fields of rows, see `ReplayMemory.write`."""
        with self.lock:
            store = self.opened()
            self.before_change()
            self.writes_ignored += store.write_late(LateValues(store.schema, ids, values))

    def begin_with(self, fill: Callable[[], None]) -> None:
        """Fills a new memory; one that lives in a folder and was filled before is left as it is."""
        if self._is_recovered:
            return
        self._is_filling = True
        fill()
        self._is_filling = False
        self._commit()

    def _store_for(self, schema: Schema, waiting: list[Chunk]) -> AnyStore:
        if self.store is None:
            try:
                self.store = self._open_store(schema, self.sampler.keep)
            except BaseException:
                self.intake.forget(waiting)
                raise
            self._commit()
        return self.store

    def opened(self) -> AnyStore:
        """The rows.

        Raises:
            EmptyMemoryError: There are none yet.
        """
        self._check_open()
        if self.store is None:
            raise EmptyMemoryError("the memory holds 0 transitions; append a Buffer first")
        return self.store

    def drawable(self, batch_size: int) -> Index:
        """The transitions that the sampler is handed for a batch; there is at least one to draw.

        Raises:
            ValueError: The batch would be empty.
            EmptyMemoryError: There are none.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        store = self.store
        if store is None or not len(store.anchors):
            is_waiting = store is not None and store.anchors.n_waiting > 0
            none = "0 whose further steps need not be waited for" if is_waiting else "0"
            raise EmptyMemoryError(
                f"cannot draw {batch_size} transitions: the memory holds {none}; append a Buffer first"
            )
        return store.index

    def resize(self, size: float | str) -> None:
        """Changes the size, keeping the newest rows.

        Raises:
            ValueError: It is no size, or too small for one transition.
            StorageError: The disk has no room; the memory is as it was.
        """
        size = checked_size(size)
        if isinstance(size, int):
            check_room(size, self.sampler.keep)
        with self.lock:
            self.before_change()
            if self.store is not None:
                self._move(self.store, transitions_within(size, self._bytes_per_row(self.store.schema)))
            self.size = size

    @property
    def capacity(self) -> int | str:
        """Most transitions to hold; a budget of bytes as it was given, while the layout is not known."""
        return self.size if self.store is None else self.store.capacity

    def _bytes_per_row(self, schema: Schema) -> int:
        columns = COLUMNS.itemsize if self.storage is None else LINK.itemsize
        return schema.row_dtype.itemsize + columns + INDEX_BYTES + self.sampler.row_bytes

    def _move(self, store: AnyStore, n_transitions: int) -> None:
        """Gives the rings other sizes, if these are others."""
        kept = self.sampler.keep
        if n_transitions == store.capacity and kept == store.kept:
            return
        logger.info("memory_size was %d, and becomes %d transitions", store.capacity, n_transitions)
        table = make_table(store.schema.row_dtype, ring_sizes(n_transitions, kept), self.storage)
        store.move(table)
        if self.storage is not None:
            self.storage.file = table.file
            self.storage.commit()

    def _open_store(self, schema: Schema, kept: Mapping[str, int]) -> AnyStore:
        """Makes the rings, those of kept sources as large as `kept` says."""
        row_bytes = self._bytes_per_row(schema)
        n = transitions_within(self.size, row_bytes)
        try:
            table = make_table(schema.row_dtype, ring_sizes(n, kept), self.storage)
        except MemoryError as error:
            raise MemoryError(
                f"memory_size must fit this machine: {n:,} transitions of {row_bytes:,} bytes "
                f"need {n * row_bytes / 1e9:,.0f} GB; choose a smaller one"
            ) from error
        return self._store_in(table, schema)

    def _store_in(self, table: Table, schema: Schema) -> AnyStore:
        return store_in(table, schema, self.tally, self.window, self.sampler, self.storage)

    # The folder that the memory lives in

    def recover(self) -> None:
        """Goes on where the memory in the storage stopped, whatever stopped it.

        Raises:
            DatasetError: The files are damaged beyond single rows, or contradict each other.
            SchemaError: The memory was asked for another layout.
        """
        storage = self.storage
        if storage is None or storage.document is None or storage.document["state"]["filling"]:
            return
        document, info = storage.document, info_in(storage.document)
        self._is_recovered = True
        with self.lock:
            self.restore(document)
            if info is None:
                return
            check_kept(kept_in(document), self.sampler.keep)
            schema = schema_from_json(document["schema"])
            self._adopt(schema)
            table = Table.in_files(storage.open_rows(schema.row_dtype, info))
            self.store = store = self._store_in(table, schema)
            self.damaged += recover(store.named_parts, storage.folder, document)
            self._move(store, transitions_within(self.size, self._bytes_per_row(schema)))
            storage.commit()

    def _adopt(self, schema: Schema) -> None:
        difference = self.intake.difference(schema)
        if difference is not None:
            raise SchemaError(
                f"the rows that were saved have another layout than this memory: {difference}; make the "
                "memory with what was saved, or choose another folder"
            )
        self.intake.adopt(schema)

    def flush(self) -> None:
        """Puts everything on the disk; does nothing for a memory in RAM."""
        if self.storage is None:
            return
        with self._flush_lock:
            self.storage.sync()
            with self.lock:
                parts = {} if self.store is None else self.store.named_parts
                saved = {
                    source: (part.sampler.kind, part.ring.oldest, priorities)
                    for source, part in parts.items()
                    if (priorities := part.priorities()) is not None
                }
            self.storage.write_priorities(saved)
            with self.lock:
                self._check_open()
                self.storage.commit()

    def close(self) -> None:
        """Flushes, and lets others open the folder; nothing can be appended or drawn any more."""
        with self._flush_lock, self.lock:
            if not self._is_closed:
                self.flush()
                self.abandon()

    def abandon(self) -> None:
        """Lets others open the folder, and leaves it as it is."""
        self._is_closed = True
        self.store = None
        if self.storage is not None:
            self.storage.close()

    def _commit(self) -> None:
        if self.storage is not None:
            self.storage.commit()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageError("the memory is closed; open its storage_path again to go on")

    def _storage_contents(self) -> dict[str, Any]:
        with self.lock:
            store = self.store
            parts = {} if store is None else store.named_parts
            rings = {
                source: {"n_rows": part.ring.n_rows, "next": part.ring.next} for source, part in parts.items()
            }
            numbers = {
                "rings": rings or {"": {"next": 0}},
                "streams": 0 if store is None else len(store.streams),
                "origins": len(self.tally.counts),
            }
            return self._document() | numbers

    # Snapshots

    def save(self, folder: Path, within: dict[str, Any] | None) -> None:
        """Writes a snapshot, or brings one up to date."""
        with self._save_lock:
            for _ in range(SAVE_ATTEMPTS):
                try:
                    self._save(folder, within)
                except EvictedRowError:
                    continue
                return
            with self.lock:
                self._save(folder, within)

    def _save(self, folder: Path, within: dict[str, Any] | None) -> None:
        with self.lock:
            self._check_open()
            document = self._document()
            parts = {} if self.store is None else self.store.named_parts
            rings = {source: self._to_save(source, part) for source, part in parts.items()}
        self._snapshot = write_snapshot(folder, document, rings or {"": NOTHING}, self._snapshot, within)
        with self.lock:
            for source, part in parts.items():
                part.late_ids = np.setdiff1d(part.late_ids, rings[source].late)

    def _to_save(self, source: str, part: Store) -> RingToSave:
        ring, numbers = part.ring, part.priorities()
        return RingToSave(
            range(ring.oldest, ring.next),
            ring.n_rows,
            lambda ids: self.copy_rows(ids, source),
            part.late_ids,
            None if numbers is None else (part.sampler.kind, numbers),
        )

    def copy_rows(self, ids: range, source: str = "") -> tuple[Rows, Columns]:
        """Copies rows of the ring of a kept source, or of all others, and what stands beside them.

        Raises:
            EvictedRowError: They are not held any more.
        """
        with self.lock:
            ring = self.opened().named_parts[source].ring
            if ids.start < ring.oldest:
                raise EvictedRowError(f"row {ids.start} is older than the oldest row, {ring.oldest}")
            return ring.copy_of(ids)

    def load(
        self,
        document: dict[str, Any],
        checksum: int,
        read_rows: Callable[[str, np.dtype[np.void], Callable[..., None]], None],
        read_saved: Callable[[dict[str, Any], str], SavedPriorities | None],
    ) -> None:
        """Takes over what was saved in place of what is held; the size stays.

        Args:
            document: The memory's part of the manifest.
            checksum: Of the whole manifest.
            read_rows: Given the source of a ring, the rows' dtype and a function, calls it with first id,
                rows and columns of each stretch of rows.
            read_saved: Given what the document says of a ring, and the kind of its sampler, reads the
                priorities; None if there are none.

        Raises:
            DatasetError: The document contradicts itself or the rows.
        """
        if self.storage is not None and (self.storage.document is not None or self.store is not None):
            raise StorageError(
                f"storage_path must be an empty folder to load into, but {self.storage.folder} holds a "
                "memory; choose another one"
            )
        with self.lock:
            self.before_change()
            if document["schema"] is not None:
                check_kept(kept_in(document), self.sampler.keep)
            wanted, self.size = self.size, document["settings"]["memory_size"]
            self.store = None
            self.restore(document)
            if document["schema"] is not None:
                schema = schema_from_json(document["schema"])
                self._adopt(schema)
                self.store = store = self._open_store(schema, kept_in(document))
                state = document["state"]["store"]
                for source, part in store.named_parts.items():
                    saved = read_saved(ring_in(document, source), part.sampler.kind)
                    of_ring = partial(read_rows, source, schema.row_dtype)
                    part.restore(of_ring, state_in(state, source), saved)
            self._snapshot = checksum
            self.resize(wanted)
            self._commit()

    def restore(self, document: dict[str, Any]) -> None:
        """Takes over all of a document but the rows."""
        try:
            state = document["state"]
            self.intake.restore(state["intake"])
            self.tally.restore(state["tally"])
            self.damaged = int(state["damaged"])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"the saved state must be what this package writes, but: {error!r}") from error
        self.restore_small(state)

    def small(self) -> dict[str, Any]:
        """The random numbers and the counters, as what `json.dumps` takes."""
        self.before_change()
        return {"sampler": self.sampler.state(), "counters": self._owner.counters()}

    def restore_small(self, state: dict[str, Any]) -> None:
        """Takes over what `small` returned; a sampler of another kind begins afresh, which is logged."""
        self.before_change()
        try:
            kind = state["sampler"].get("kind", Uniform.__name__)  # before there were others, it was not said
            if kind == self.sampler.kind:
                self.sampler.restore(state["sampler"])
            else:
                logger.warning(
                    "the memory was saved with the sampler %s and goes on with %s, which begins afresh",
                    kind,
                    self.sampler.kind,
                )
            self._owner.restore_counters(state["counters"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"the saved state must be what this package writes, but: {error!r}") from error

    def _document(self) -> dict[str, Any]:
        store = self.store
        return {
            "schema": None if store is None else schema_to_json(store.schema),
            "settings": {"memory_size": self.capacity, **self._owner.settings(), **self.intake.settings()},
            "state": {
                "store": None if store is None else store.state(),
                "intake": self.intake.state(),
                "tally": self.tally.state(),
                "damaged": self.damaged,
                "filling": self._is_filling,
                **self.small(),
            },
        }
