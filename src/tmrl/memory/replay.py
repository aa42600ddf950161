"""ReplayMemory: a replay memory that is ready to use, exact, and as fast as the machine's memory.

It wires the parts of this package together: the intake checks and packs what arrives, the store keeps rows
and the links between them, a sampler draws ranks, and the hand-out cuts the batch from one block of gathered
rows. One lock makes an append, and a draw with its gather, each happen at one instant.
"""

import logging
import operator
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tmrl.buffer import Buffer
from tmrl.chunk import DEFAULT_SOURCE
from tmrl.datasets.dataset import Dataset
from tmrl.datasets.files import read_manifest
from tmrl.datasets.opening import open_dataset
from tmrl.datasets.segments import memory_in, read_segments
from tmrl.errors import DatasetError, EmptyMemoryError, EvictedRowError, IntegrityError, TmrlError
from tmrl.integrity import mismatch
from tmrl.memory.base import SamplePreprocessor
from tmrl.memory.blocks import Block
from tmrl.memory.crc import BatchChecker
from tmrl.memory.from_dataset import check_layout, choose, chunks_of_dataset
from tmrl.memory.handout import HandOut, one_transition
from tmrl.memory.intake import Intake
from tmrl.memory.samplers import Uniform
from tmrl.memory.snapshot import write_snapshot
from tmrl.memory.stats import SOURCE, WORKER, MemoryStats, Tally, percentile
from tmrl.memory.store import Drawn, Store
from tmrl.memory.torch_memory import TorchMemory
from tmrl.packing import worker_of
from tmrl.schema import Rows, Schema
from tmrl.schema_json import schema_from_json, schema_to_json
from tmrl.transition import Batch

logger = logging.getLogger(__name__)

MAX_ROWS = np.iinfo(np.int32).max

SAVE_ATTEMPTS = 3
"""Saves that appends may outrun, evicting rows before they are copied, until appends have to wait."""

_COUNTERS = (
    *("_draws", "crc_checked"),
    *("stat_train_return", "stat_test_return", "stat_train_steps", "stat_test_steps"),
)


@final
class ReplayMemory(TorchMemory):
    """A replay memory for any fixed-size observations, with each observation stored once.

    Every transition that really happened and whose two rows are present can be drawn, with equal probability,
    and no other. Appending and drawing from different threads is safe.

    Args:
        device: Where batches are handed out.
        nb_steps: Number of batches that one iteration over the memory yields.
        sample_preprocessor: Called with the six parts of every single transition drawn, returns the same six;
            each transition then passes through python. Prefer `batch_preprocessor`.
        memory_size: Most transitions to hold; may be a float such as `1e6`, and may be reassigned: growing
            and shrinking keep the newest. The ring has one row more; each further episode or gap costs one.
        batch_size: Number of transitions in a batch; may be reassigned.
        dataset_path: Recorded data to begin with, as `append_dataset` takes them; `""` means none.
        crc_debug: Whether every transition drawn is compared with the checksums that its worker put into its
            `info`; the workers must be in CRC mode too.
        seed: Of the draws; None takes one from the operating system.
        observation_space: Gymnasium space of the observations; None takes the layout from the first sample.
        action_space: Likewise of the actions.
        info_keys: Entries of `info` to keep; every step must have them. They come back in `batch.info`.
        batch_preprocessor: Called with each `Batch`, on its device, returns what `sample` is to return.
        contiguous: Whether batches are dense copies; as a rule the views that they are otherwise are faster.
        finite: Fields (`rew`, `act`, `obs`) or single leaves (`obs/speed`) that may hold no NaN or infinity.
    """

    def __init__(
        self,
        device: Any = "cpu",
        nb_steps: int = 1,
        sample_preprocessor: SamplePreprocessor | None = None,
        memory_size: float = 1_000_000,
        batch_size: int = 256,
        dataset_path: str | Path = "",
        crc_debug: bool = False,
        *,
        seed: int | None = None,
        observation_space: Any = None,
        action_space: Any = None,
        info_keys: Collection[str] = (),
        batch_preprocessor: Callable[[Batch], Any] | None = None,
        contiguous: bool = False,
        finite: Collection[str] = ("rew", "act"),
    ) -> None:
        self._lock = threading.RLock()
        self._save_lock = threading.Lock()
        self._store: Store | None = None
        self._tally = Tally()
        self._intake = Intake(observation_space, action_space, info_keys, finite, crc_debug)
        self._sampler = Uniform(np.random.default_rng(seed))
        self._hand_out: HandOut | None = None
        self._checker: BatchChecker | None = None
        self._drawn: Drawn | None = None
        self._draws = 0
        self._snapshot: int | None = None
        self.batch_preprocessor = batch_preprocessor
        self.contiguous = contiguous
        super().__init__(device, nb_steps, sample_preprocessor, memory_size, batch_size, "", crc_debug)
        if str(dataset_path):
            self.append_dataset(dataset_path)

    # Appending

    def append_buffer(
        self, buffer: Buffer, *, source: str = DEFAULT_SOURCE, continues: bool = False
    ) -> "ReplayMemory":
        """Checks and stores the samples of a Buffer, all or none; nothing of them is aliased.

        Args:
            buffer: The samples, and nothing else, are read.
            source: Label of where they come from, where they do not say so themselves.
            continues: Whether samples without a stamp go on where the last ones without a stamp ended;
                otherwise they form a stream of their own.

        Raises:
            BadSampleError: A sample does not fit; the memory is as it was.
            SchemaError: The first samples show something that no row can hold.
            IntegrityError: In CRC mode, a sample carries no checksums.
        """
        samples = buffer.memory
        if not samples:
            return self
        with self._lock:
            try:
                chunks = self._intake.chunks(samples, source, continues)
            except TmrlError:
                self._count_refused(samples, source)
                raise
            if self._store is None and self._intake.schema is not None:
                self._store = self._open_store(self._intake.schema)
            for chunk in chunks:
                self._opened().append(chunk)
        return self

    def _count_refused(self, samples: Sequence[Any], source: str) -> None:
        for sample in samples:
            self._tally.of(worker_of(sample), source).refused += 1

    def _open_store(self, schema: Schema) -> Store:
        row_bytes = schema.row_dtype.itemsize
        try:
            store = Store(schema, self._capacity, self._tally)
        except MemoryError as error:
            raise MemoryError(
                f"memory_size must fit this machine: {self._capacity:,} transitions of {row_bytes:,} bytes "
                f"need {self._capacity * row_bytes / 1e9:,.0f} GB; choose a smaller one"
            ) from error
        logger.info(
            "memory of %d transitions: %d bytes a row, %.1f MB when full",
            self._capacity,
            row_bytes,
            store.bytes_full / 1e6,
        )
        return store

    def append_dataset(self, dataset: Dataset | str | Path, source: str | None = None) -> None:
        """Appends recorded episodes; if there are more than fit, the newest whole ones.

        Args:
            dataset: A dataset, or what `tmrl.datasets.open_dataset` takes.
            source: Label of where they come from; None keeps the labels that the dataset has.

        Raises:
            DatasetError: It cannot be read, or its rows do not fit this memory; the message says why.
                Episodes before a damaged one are in the memory.
        """
        opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
        first = choose(opened, self._capacity)
        if first == len(opened):
            return
        with self._lock:
            schema = self._intake.schema_for(opened.schema)
            check_layout(schema, opened.schema)
            packer, waiting = self._intake.adopt(schema)
            self._store = store = self._store or self._open_store(schema)
            for chunk in waiting:
                store.append(chunk)
            # No worker has a negative epoch, and no two datasets begin with one row.
            epoch = -1 - store.ring.next
        for chunk in chunks_of_dataset(opened, first, schema, packer, source, epoch):
            with self._lock:
                store.append(chunk)

    # Drawing

    def __len__(self) -> int:
        """Number of transitions that can be drawn."""
        return 0 if self._store is None else len(self._store.anchors)

    def sample(self) -> Any:
        """Draws a batch, uniform and with replacement.

        Returns:
            A `Batch`, or what the `batch_preprocessor` makes of it. It is the caller's; the memory never
            writes to it again.

        Raises:
            EmptyMemoryError: The memory holds no transition.
            IntegrityError: In CRC mode, a transition is not the one that its worker saw.
        """
        with self._lock:
            batch = self._batch(self._draw_ranks())
        return batch if self.batch_preprocessor is None else self.batch_preprocessor(batch)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The batch of chosen transitions, by the indices that `self[i]` takes; no `batch_preprocessor`.

        Raises:
            ValueError: There are no indices.
            IndexError: There is no such transition.
            IntegrityError: As in `sample`.
        """
        if len(indices) == 0:
            raise ValueError("indices must name at least 1 transition, got none")
        with self._lock:
            return self._batch(np.array([self._rank(index) for index in indices], np.int64))

    def sample_indices(self) -> list[int]:
        """Draws `batch_size` indices, uniform and with replacement, from the memory's own generator.

        Raises:
            EmptyMemoryError: The memory holds no transition.
        """
        with self._lock:
            return self._draw_ranks().tolist()

    def get_transition(self, item: int) -> tuple[Any, Any, Any, Any, Any, Any, dict[str, Any]]:
        """Returns transition `item`, 0 being the oldest, as copies in the dtypes that were appended.

        Returns:
            `(prev_obs, new_act, rew, new_obs, terminated, truncated, info)`; `rew` is `np.float32`, the flags
            are bool, `info` has the entries that `info_keys` names, and in CRC mode the checksums.

        Raises:
            IndexError: There is no such transition.
        """
        with self._lock:
            rank = self._rank(item)
            store = self._opened()
            drawn = store.draw(np.array([rank], np.int64))
            previous, anchor = (store.ring.rows[slot].copy() for slot in drawn.pairs[0])
            return one_transition(store.schema, previous, anchor, self._worker(store, drawn, 0))

    def _draw_ranks(self) -> NDArray[np.int64]:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        n = len(self)
        if n == 0:
            raise EmptyMemoryError(
                f"cannot draw {self.batch_size} transitions: the memory holds 0; append a Buffer first"
            )
        self._draws += self.batch_size
        return self._sampler.draw(self.batch_size, n)

    def _rank(self, index: int) -> int:
        n = len(self)
        rank = operator.index(index)
        if not -n <= rank < n:
            raise IndexError(f"transition {rank} is out of range: the memory holds {n}")
        return rank % n

    def _batch(self, ranks: NDArray[np.int64]) -> Batch:
        store = self._opened()
        self._drawn = drawn = store.draw(ranks)
        hand_out = self._hand_out
        if hand_out is None or not hand_out.fits(len(ranks), self.device, self.contiguous):
            self._hand_out = hand_out = HandOut(store.schema, len(ranks), self.device, self.contiguous)
        block = hand_out.pool.take()
        block.fill(store.ring, drawn.pairs.reshape(-1))
        six, info = hand_out.six(block)
        if self.sample_preprocessor is not None:
            six = self.collate([self[rank] for rank in ranks.tolist()], self.device)
        elif self.crc_debug:
            self._check(store, drawn, block)
        return Batch(six, drawn, info)

    def _check(self, store: Store, drawn: Drawn, block: Block) -> None:
        if self._checker is None:
            self._checker = BatchChecker(store.schema)
        found = self._checker.check(block)
        if found is not None:
            window, names, episode, step = found
            raise IntegrityError(mismatch(names, self._worker(store, drawn, window), episode, step))
        self.crc_checked += len(drawn.pairs)

    def _worker(self, store: Store, drawn: Drawn, window: int) -> str:
        return self._tally.worker(int(store.ring.origin[drawn.pairs[window, 1]]))

    def _opened(self) -> Store:
        if self._store is None:
            raise EmptyMemoryError("the memory holds 0 transitions; append a Buffer first")
        return self._store

    # Snapshots

    def save(self, path: str | Path, *, within: dict[str, Any] | None = None) -> None:
        """Writes the memory to a folder, from which `load` goes on as if nothing had happened.

        Saving again to the same folder writes only what is new. A crash leaves the snapshot that was there
        before. Other threads may append and sample meanwhile; what is saved is the memory at one instant. The
        preprocessors are not saved.

        Args:
            path: The folder; made if need be.
            within: A larger document, as what `json.dumps` takes, that the folder's manifest is to hold
                beside the memory: both are replaced in one step.

        Raises:
            DatasetError: The folder holds something else.
        """
        with self._save_lock:
            for _ in range(SAVE_ATTEMPTS):
                try:
                    self._save(Path(path), within)
                except EvictedRowError:
                    continue
                return
            with self._lock:
                self._save(Path(path), within)

    @classmethod
    def load(cls, path: str | Path, **arguments: Any) -> "ReplayMemory":
        """Makes the memory that was saved to a folder.

        Args:
            path: The folder.
            arguments: Arguments of the constructor, in place of those that were saved. Preprocessors, the
                device and the spaces are not saved. A `dataset_path` is not read: its rows were saved.

        Raises:
            DatasetError: The folder holds no snapshot, or a damaged one; the message names the file.
        """
        folder = Path(path)
        document, checksum = read_manifest(folder)
        body = memory_in(document)
        saved: dict[str, Any] = {"memory_size": body["settings"]["memory_size"], "dataset_path": ""}
        memory = cls(**{**body["settings"], **arguments, **saved})
        memory._restore(body["state"])
        if body["schema"] is not None:
            schema = schema_from_json(body["schema"])
            memory._intake.adopt(schema)
            memory._store = store = memory._open_store(schema)
            store.restore(
                lambda put: read_segments(folder, body, schema.row_dtype, put), body["state"]["streams"]
            )
        memory._snapshot = checksum
        memory.memory_size = arguments.get("memory_size", memory.memory_size)
        return memory

    def _save(self, folder: Path, within: dict[str, Any] | None) -> None:
        with self._lock:
            store = self._store
            ids = range(0) if store is None else range(store.ring.oldest, store.ring.next)
            body = {
                "schema": None if store is None else schema_to_json(store.schema),
                "oldest": ids.start,
                "settings": self._settings(),
                "state": self._state(),
            }
            n_rows = self._capacity + 1
        self._snapshot = write_snapshot(folder, body, ids, n_rows, self._copy_rows, self._snapshot, within)

    def _copy_rows(self, ids: range) -> tuple[Rows, NDArray[np.int32], NDArray[np.int32]]:
        with self._lock:
            ring = self._opened().ring
            if ids.start < ring.oldest:
                raise EvictedRowError(f"row {ids.start} is older than the oldest row, {ring.oldest}")
            return ring.copy_of(ids)

    def _settings(self) -> dict[str, Any]:
        return {
            "memory_size": self._capacity,
            "batch_size": self.batch_size,
            "nb_steps": self.nb_steps,
            "crc_debug": self.crc_debug,
            "contiguous": self.contiguous,
            **self._intake.settings(),
        }

    def _state(self) -> dict[str, Any]:
        return {
            "streams": [] if self._store is None else self._store.stream_state(),
            "intake": self._intake.state(),
            "tally": self._tally.state(),
            "sampler": self._sampler.state(),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }

    def _restore(self, state: Any) -> None:
        try:
            self._intake.restore(state["intake"])
            self._tally.restore(state["tally"])
            self._sampler.restore(state["sampler"])
            for name in _COUNTERS:
                setattr(self, name, state["counters"][name])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"the snapshot's state must be what save writes, but: {error!r}") from error

    # Size and statistics

    @property
    def memory_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Most transitions to hold. Setting it resizes the memory and keeps the newest."""
        return self._capacity

    @memory_size.setter
    def memory_size(self, size: float) -> None:
        if not 1 <= size < MAX_ROWS:
            raise ValueError(f"memory_size must be at least 1 and below {MAX_ROWS}, got {size}")
        with self._lock:
            self._capacity = int(size)
            if self._store is not None:
                self._store.resize(self._capacity)

    @property
    def schema(self) -> Schema | None:
        """The layout of the rows; None until the first samples with an action."""
        return None if self._store is None else self._store.schema

    def stats(self) -> MemoryStats:
        """What is in the memory, where it came from, and how old the newest batch was."""
        with self._lock:
            store, drawn, total = self._store, self._drawn, self._tally.total()
            ids = np.empty(0, np.int64) if drawn is None else drawn.ids()
            ages = np.empty(0) if drawn is None else (drawn.next - 1 - ids).astype(np.float64)
            ages_s = np.empty(0) if store is None else store.times.ages_s(ids)
            return MemoryStats(
                transitions=len(self),
                rows=0 if store is None else len(store.ring),
                capacity=self._capacity,
                bytes_now=0 if store is None else store.bytes_now,
                bytes_full=0 if store is None else store.bytes_full,
                appended=total.appended,
                evicted=total.evicted,
                refused=total.refused,
                duplicates=total.duplicates,
                gaps=total.gaps,
                draws=self._draws,
                crc_checked=self.crc_checked,
                age_rows_p50=percentile(ages, 50),
                age_rows_p95=percentile(ages, 95),
                age_s_p50=percentile(ages_s, 50),
                age_s_p95=percentile(ages_s, 95),
                workers=self._tally.by(WORKER),
                sources=self._tally.by(SOURCE),
            )

    def __repr__(self) -> str:
        return f"ReplayMemory({len(self)} of {self._capacity} transitions, batch_size={self.batch_size})"
