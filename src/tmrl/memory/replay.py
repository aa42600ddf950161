"""ReplayMemory: a replay memory that is ready to use, exact, and as fast as the machine's memory.

It wires the parts of this package together: the state takes samples in, keeps their rows and writes them
down, a sampler draws ranks, and the hand-out cuts the batch from one block of gathered rows. One lock makes
an append, and a draw with its gather, each happen at one instant.
"""

import operator
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from tmrl.buffer import Buffer
from tmrl.chunk import DEFAULT_SOURCE
from tmrl.datasets.dataset import Dataset
from tmrl.datasets.files import read_manifest
from tmrl.datasets.opening import open_dataset
from tmrl.datasets.segments import memory_in
from tmrl.errors import EmptyMemoryError, IntegrityError
from tmrl.history import History
from tmrl.integrity import mismatch
from tmrl.memory.base import SamplePreprocessor
from tmrl.memory.blocks import Block
from tmrl.memory.crc import BatchChecker
from tmrl.memory.handout import HandOut, one_transition
from tmrl.memory.intake import Intake
from tmrl.memory.rebuilding import Rebuilt
from tmrl.memory.rows_on_disk import read_rows
from tmrl.memory.samplers import Uniform
from tmrl.memory.size import checked_size
from tmrl.memory.state import MemoryState, Owner
from tmrl.memory.stats import SOURCE, WORKER, MemoryStats, percentile
from tmrl.memory.storage import Storage
from tmrl.memory.store import Drawn, Store
from tmrl.memory.torch_memory import TorchMemory
from tmrl.memory.windows import Transition, Window, window_from_json, window_to_json
from tmrl.repeat import Repeat
from tmrl.schema import Schema
from tmrl.transition import Batch

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
        memory_size: Most transitions to hold; may be a float such as `1e6`, or all the bytes to use, as in
            `"24GB"` (10^9) or `"24GiB"`. It may be reassigned: growing and shrinking keep the newest. The
            ring has one row more; each further episode or gap costs one.
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
        window: What a transition drawn expands to: `Transition`, the default, `NStep`, `Sequence`,
            `FrameStack`. `len(memory)` counts those that it can use.
        history: What the workers leave out of observations, to be rebuilt here; give them the same one.
        storage_path: Folder for the memory to live in, written by one memory at a time; None for RAM. What
            `append` took in survives the end of the process, whatever ends it. A folder that holds a memory
            is opened, and goes on where it was: its random numbers too, whatever the `seed`.
        flush_interval_s: Seconds from one `flush()` in the background to the next; None for none.

    Raises:
        ValueError: An argument is out of range.
        StorageError: The `storage_path` cannot be written, or another memory writes it.
        DatasetError: What the `storage_path` holds is something else, or damaged beyond single rows.
        SchemaError: It holds rows of another layout than asked for.
    """

    def __init__(
        self,
        device: Any = "cpu",
        nb_steps: int = 1,
        sample_preprocessor: SamplePreprocessor | None = None,
        memory_size: float | str = 1_000_000,
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
        window: Window | None = None,
        history: History | None = None,
        storage_path: str | Path | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        checked_size(memory_size)
        if flush_interval_s is not None and not flush_interval_s > 0:
            raise ValueError(f"flush_interval_s must be above 0, or None, got {flush_interval_s}")
        self.storage_path = None if storage_path is None else Path(storage_path)
        self.window = window or Transition()
        self.history = history
        self._window = self.window if history is None else Rebuilt(self.window, history)
        self._state = MemoryState(
            Owner(self._settings, self._counters, self._restore_counters),
            Intake(observation_space, action_space, info_keys, finite, crc_debug, history),
            Uniform(np.random.default_rng(seed)),
            self._window,
            None if self.storage_path is None else Storage(self.storage_path),
        )
        self._lock = self._state.lock
        self._hand_out: HandOut | None = None
        self._checker: BatchChecker | None = None
        self._drawn: Drawn | None = None
        self._draws = 0
        self._flushes: Repeat | None = None
        self.batch_preprocessor = batch_preprocessor
        self.contiguous = contiguous
        try:
            # The documented constructor knows numbers only; what was given is set behind it.
            super().__init__(device, nb_steps, sample_preprocessor, 1, batch_size, "", crc_debug)
            self.memory_size = memory_size
            self._state.recover()
            if str(dataset_path):
                self._state.begin_with(lambda: self.append_dataset(dataset_path))
        except BaseException:
            self._state.abandon()
            raise
        if flush_interval_s is not None:
            self._flushes = Repeat(self.flush, flush_interval_s)

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
            StorageError: The disk has no room; the memory is as it was.
            IntegrityError: In CRC mode, a sample carries no checksums.
        """
        if buffer.memory:
            self._state.append(buffer.memory, source, continues)
        return self

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
        self._state.append_dataset(opened, source)

    # Drawing

    def __len__(self) -> int:
        """Number of transitions that can be drawn."""
        store = self._store
        return 0 if store is None else len(store.anchors)

    @property
    def _store(self) -> Store | None:
        return self._state.store

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
            are bool, `info` has the entries that `info_keys` names, and in CRC mode the checksums. With
            another `window` than `Transition` the parts are what it makes of them, checked in CRC mode.

        Raises:
            IndexError: There is no such transition.
        """
        with self._lock:
            rank = self._rank(item)
            store = self._state.opened()
            drawn = store.draw(np.array([rank], np.int64))
            previous, anchor = (store.ring.rows[slot].copy() for slot in drawn.pairs[0])
            plain = one_transition(store.schema, previous, anchor, self._worker(store, drawn, 0))
            if type(self._window) is Transition:
                return plain
            block, slots = Block(store.schema, self._window, 1), store.expand(drawn)
            block.fill(store.ring, slots.reshape(-1))
            one = HandOut(store.schema, self._window, 1, "cpu", False).one(block, slots, store.ring.back)
            if type(self.window) is Transition:
                return (one[0], *plain[1:3], one[3], *plain[4:])
            if self.crc_debug:
                self._check(store, drawn, block, slots)
            return one

    def _draw_ranks(self) -> NDArray[np.int64]:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        n = len(self)
        if n == 0:
            raise EmptyMemoryError(
                f"cannot draw {self.batch_size} transitions: the memory holds 0; append a Buffer first"
            )
        self._draws += self.batch_size
        return self._state.sampler.draw(self.batch_size, n)

    def __getitem__(self, item: int) -> Any:
        """Returns transition `item` as `Memory.__getitem__` does, or what the `window` makes of it."""
        if type(self.window) is Transition:
            return super().__getitem__(item)
        six = self.get_transition(item)[:6]
        return six if self.sample_preprocessor is None else self.sample_preprocessor(*six)

    def _rank(self, index: int) -> int:
        n = len(self)
        rank = operator.index(index)
        if not -n <= rank < n:
            raise IndexError(f"transition {rank} is out of range: the memory holds {n}")
        return rank % n

    def _batch(self, ranks: NDArray[np.int64]) -> Batch:
        store = self._state.opened()
        self._drawn = drawn = store.draw(ranks)
        hand_out = self._hand_out
        if hand_out is None or not hand_out.fits(len(ranks), self.device, self.contiguous):
            self._hand_out = hand_out = HandOut(
                store.schema, self._window, len(ranks), self.device, self.contiguous
            )
        block, slots, back = hand_out.pool.take(), store.expand(drawn), store.ring.back
        block.fill(store.ring, slots.reshape(-1))
        six, info, beside = hand_out.six(block, slots, back)
        if self.sample_preprocessor is not None:
            six = self.collate([self[rank] for rank in ranks.tolist()], self.device)
        elif self.crc_debug:
            self._check(store, drawn, block, slots)
        return Batch(six, drawn, info, beside=beside)

    def _check(self, store: Store, drawn: Drawn, block: Block, slots: NDArray[np.int32]) -> None:
        if self._checker is None:
            self._checker = BatchChecker(store.schema, self._window)
        n_equal, found = self._checker.check(block, slots, store.ring.back)
        if found is not None:
            worker = self._worker(store, drawn, found.window)
            raise IntegrityError(mismatch(found.names, worker, found.episode, found.step))
        self.crc_checked += n_equal

    def _worker(self, store: Store, drawn: Drawn, window: int) -> str:
        return self._state.tally.worker(int(store.ring.origin[drawn.pairs[window, 1]]))

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
        self._state.save(Path(path), within)

    @classmethod
    def load(cls, path: str | Path, **arguments: Any) -> "ReplayMemory":
        """Makes the memory that was saved to a folder, or a copy of one that lives there.

        Args:
            path: The folder.
            arguments: Arguments of the constructor, in place of those that were saved. Preprocessors, the
                device and the spaces are not saved. A `dataset_path` is not read: its rows were saved.

        Raises:
            DatasetError: The folder holds no memory, or a damaged one; the message names the file.
            SchemaError: Its rows have another layout than the arguments ask for.
            StorageError: The `storage_path` holds a memory already.
        """
        settings: dict[str, Any] = memory_in(read_manifest(Path(path))[0])["settings"]
        made = {"window": window_from_json, "history": History.from_json}
        objects = {name: make(settings[name]) for name, make in made.items() if settings.get(name)}
        given: dict[str, Any] = {**settings, "window": None, **objects, **arguments, "dataset_path": ""}
        memory = cls(**given)
        try:
            memory.restore(path)
        except BaseException:
            memory._state.abandon()
            raise
        return memory

    def restore(self, path: str | Path) -> None:
        """Replaces what this memory holds by what was saved to a folder, and goes on from there.

        Sizes, preprocessors and the device stay those of this memory; the random numbers become the saved
        ones.

        Args:
            path: The folder.

        Raises:
            DatasetError: The folder holds no memory, or a damaged one. This memory may then be half restored;
                make another.
            SchemaError: The rows have another layout than this memory was made for.
            StorageError: This memory lives in a folder, and rows are there already.
        """
        folder = Path(path)
        document, checksum = read_manifest(folder)
        body = memory_in(document)
        with self._lock:
            self._hand_out = self._checker = self._drawn = None
            self._state.load(body, checksum, lambda row_dtype, put: read_rows(folder, body, row_dtype, put))

    def flush(self) -> None:
        """Puts the rows and all the rest on the disk, so that they survive a power cut; nothing in RAM.

        Other threads may append and draw meanwhile.
        """
        self._state.flush()

    def close(self) -> None:
        """Flushes a memory that lives in a folder, and lets others open it. A closed memory is empty."""
        if self._flushes is not None:
            self._flushes.stop()
        self._state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """What the next batch depends on beside the rows: random numbers and counts, for `json.dumps`."""
        with self._lock:
            return self._state.small()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned; the rows stay.

        Raises:
            DatasetError: It is no such state.
        """
        with self._lock:
            self._state.restore_small(state)

    def _settings(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "nb_steps": self.nb_steps,
            "crc_debug": self.crc_debug,
            "contiguous": self.contiguous,
            "window": window_to_json(self.window),
            "history": None if self.history is None else self.history.to_json(),
        }

    def _counters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _COUNTERS}

    def _restore_counters(self, counters: dict[str, Any]) -> None:
        for name in _COUNTERS:
            setattr(self, name, counters[name])

    # Size and statistics

    @property
    def memory_size(self) -> int | str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Most transitions to hold; a budget of bytes as it was given, until the first Buffer.

        Setting it resizes the memory and keeps the newest.
        """
        return self._state.capacity

    @memory_size.setter
    def memory_size(self, size: float | str) -> None:
        self._state.resize(size)

    @property
    def schema(self) -> Schema | None:
        """The layout of the rows; None until the first samples with an action."""
        return None if self._store is None else self._store.schema

    def stats(self) -> MemoryStats:
        """What is in the memory, where it came from, and how old the newest batch was."""
        with self._lock:
            store, drawn, total = self._store, self._drawn, self._state.tally.total()
            ids = np.empty(0, np.int64) if drawn is None else drawn.ids()
            ages = np.empty(0) if drawn is None else (drawn.next - 1 - ids).astype(np.float64)
            ages_s = np.empty(0) if store is None else store.times.ages_s(ids)
            return MemoryStats(
                transitions=len(self),
                rows=0 if store is None else len(store.ring),
                capacity=self.memory_size if isinstance(self.memory_size, int) else 0,
                bytes_now=0 if store is None else store.bytes_now,
                bytes_full=0 if store is None else store.bytes_full,
                appended=total.appended,
                evicted=total.evicted,
                refused=total.refused,
                duplicates=total.duplicates,
                gaps=total.gaps,
                draws=self._draws,
                damaged=self._state.damaged,
                crc_checked=self.crc_checked,
                age_rows_p50=percentile(ages, 50),
                age_rows_p95=percentile(ages, 95),
                age_s_p50=percentile(ages_s, 50),
                age_s_p95=percentile(ages_s, 95),
                workers=self._state.tally.by(WORKER),
                sources=self._state.tally.by(SOURCE),
            )

    def __repr__(self) -> str:
        return f"ReplayMemory({len(self)} of {self.memory_size} transitions, batch_size={self.batch_size})"
