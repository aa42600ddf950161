"""ReplayMemory: a replay memory that is ready to use, exact, and as fast as the machine's memory.

It wires the parts of this package together: the state takes samples in, keeps their rows and writes them
down, a sampler chooses transitions, and the hand-out cuts the batch from one block of gathered rows. One lock
makes an append, and a draw with its gather, each happen at one instant.
"""

import operator
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from tmrl.buffer import Buffer
from tmrl.chunk import DEFAULT_SOURCE
from tmrl.datasets.dataset import Dataset
from tmrl.datasets.files import read_manifest
from tmrl.datasets.opening import open_dataset
from tmrl.datasets.priorities import read_priorities
from tmrl.datasets.segments import memory_in
from tmrl.history import History
from tmrl.memory.anchors import Pairs
from tmrl.memory.base import SamplePreprocessor
from tmrl.memory.batches import AnyDrawn, Batches
from tmrl.memory.intake import Intake
from tmrl.memory.prefetch import prefetcher_of
from tmrl.memory.prioritized import checked_updates
from tmrl.memory.rebuilding import made_of, rebuilt
from tmrl.memory.rings import AnyStore
from tmrl.memory.rows_on_disk import read_rows
from tmrl.memory.samplers import Choice, Sampler, Uniform
from tmrl.memory.size import checked_size
from tmrl.memory.state import MemoryState, Owner
from tmrl.memory.stats import MemoryStats
from tmrl.memory.storage import Storage
from tmrl.memory.summary import summary
from tmrl.memory.torch_memory import TorchMemory
from tmrl.memory.windows import Transition, Window, window_to_json
from tmrl.repeat import Repeat
from tmrl.schema import Schema
from tmrl.transition import Batch

_COUNTERS = (
    *("_draws", "_ignored_updates", "crc_checked"),
    *("stat_train_return", "stat_test_return", "stat_train_steps", "stat_test_steps"),
)


@final
class ReplayMemory(TorchMemory):
    """A replay memory for any fixed-size observations, with each observation stored once.

    Every transition that really happened and whose two rows are present can be drawn, with equal probability
    unless the sampler says otherwise, and no other. Appending and drawing from different threads is safe.

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
        sampler: What chooses the transitions of a batch, see `tmrl.memory.Sampler`; None means `Uniform()`.
            It belongs to this memory alone.
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
        prefetch: Batches that a thread draws ahead; they are the same as without. It pays where the device
            computes while the CPU draws; on a CPU alone it rather costs. `close()` ends the thread.

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
        sampler: Sampler | None = None,
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
        prefetch: int = 0,
    ) -> None:
        checked_size(memory_size)
        if flush_interval_s is not None and not flush_interval_s > 0:
            raise ValueError(f"flush_interval_s must be above 0, or None, got {flush_interval_s}")
        self.sampler = sampler or Uniform()
        self.sampler.begin(np.random.default_rng(seed))
        self.storage_path = None if storage_path is None else Path(storage_path)
        self.window = window or Transition()
        self.history = history
        self.info_keys = tuple(info_keys)
        self._state = MemoryState(
            Owner(self._settings, self._counters, self._restore_counters),
            Intake(observation_space, action_space, info_keys, finite, crc_debug, history),
            self.sampler,
            rebuilt(self.window, history),
            None if self.storage_path is None else Storage(self.storage_path),
        )
        self._lock = self._state.lock
        self._batches = Batches(self.window, history, self._state.tally)
        self._drawn: AnyDrawn | None = None
        self._draws = self._ignored_updates = 0
        self._flushes: Repeat | None = None
        self._prefetcher = prefetcher_of(self, self._state, lambda: self._batch(*self._choose()), prefetch)
        self.batch_preprocessor = batch_preprocessor
        self.contiguous = contiguous
        try:
            # The documented constructor knows numbers only; what was given is set behind it.
            least = 1 + sum(self.sampler.keep.values())
            super().__init__(device, nb_steps, sample_preprocessor, least, batch_size, "", crc_debug)
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
            buffer: Its samples, and nothing else, are read; rows that fit as they are stay packed.
            source: Label of where they come from, where they do not say so themselves.
            continues: Whether samples without a stamp go on where the last ones without a stamp ended;
                otherwise they form a stream of their own.

        Raises:
            BadSampleError: A sample does not fit; the memory is as it was.
            SchemaError: The first samples show something that no row can hold.
            StorageError: The disk has no room; the memory is as it was.
            IntegrityError: In CRC mode, a sample carries no checksums.
        """
        if len(buffer):
            self._state.append(buffer, source, continues)
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
        self._state.append_dataset(dataset if isinstance(dataset, Dataset) else open_dataset(dataset), source)

    def write(self, ids: Any, **values: Any) -> None:
        """Changes stored fields of rows afterwards: rewards of a model, labels of a person, recurrent states.

        Each draw sees a row as it was or as it is, never a mixture. In CRC mode the checksums follow.

        Args:
            ids: `(n,)` row ids, as in `batch.ids`; array or tensor. Those of rows that were evicted meanwhile
                are ignored and counted in `stats().writes_ignored`; of equal ones the last counts.
            **values: `rew`, or entries of `info` that `info_keys` names: nests of arrays or tensors
                `(n, ...)`, of the dtypes that are stored; rewards may be any finite numbers.

        Raises:
            ValueError: A value does not fit; the memory is as it was.
            EmptyMemoryError: The memory never held a row.
        """
        self._state.write_late(ids, values)

    # Drawing

    @property
    def crc_checked(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Transitions that were compared with what their worker saw, and found equal."""
        return self._batches.crc_checked

    @crc_checked.setter
    def crc_checked(self, count: int) -> None:
        self._batches.crc_checked = count

    def __len__(self) -> int:
        """Number of transitions that can be drawn."""
        store = self._store
        return 0 if store is None else len(store.anchors)

    @property
    def _store(self) -> AnyStore | None:
        return self._state.store

    @property
    def newest_policy(self) -> int:
        """Number of the newest policy that acted in a row; 0 before any did."""
        return 0 if self._store is None else self._store.newest_policy

    def sample(self) -> Any:
        """Draws a batch; uniform and with replacement, unless the sampler says otherwise.

        Returns:
            A `Batch`, or what the `batch_preprocessor` makes of it. It is the caller's; the memory never
            writes to it again.

        Raises:
            EmptyMemoryError: The memory holds no transition, or fewer than the sampler needs.
            IntegrityError: In CRC mode, a transition is not the one that its worker saw.
        """
        if self._prefetcher is None:
            with self._lock:
                batch, drawn = self._batch(*self._choose())
        else:
            batch, drawn = self._prefetcher.get()
        self._drawn = drawn
        self._draws += len(drawn.pairs)
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
            ranks = np.array([self._rank(index) for index in indices], np.int64)
            batch, self._drawn = self._batch(self._state.opened().anchors.pairs(ranks))
            return batch

    def sample_indices(self) -> list[int]:
        """Draws `batch_size` indices as `sample` does, from the memory's own generator.

        Raises:
            EmptyMemoryError: The memory holds no transition, or fewer than the sampler needs.
        """
        with self._lock:
            self._state.before_change()
            choice = self._choose()
            self._draws += self.batch_size
            return self._state.opened().anchors.ranks(choice.pairs[:, 1]).tolist()

    def update_priorities(self, ids: Any, td_errors: Any) -> None:
        """Sets the priorities of transitions that were drawn.

        A transition that was evicted meanwhile is ignored, and counted by `stats().ignored_updates`. Of an id
        that is named twice, the last error counts.

        Args:
            ids: `(B,)` integers: the `ids` of a batch.
            td_errors: `(B,)` numbers, an array or a tensor on any device; their magnitudes count.

        Raises:
            TypeError: The ids are no integers.
            ValueError: The sampler has no priorities, the shapes differ, an error is not finite, or there
                never was such a row. No priority is changed.
        """
        rows, errors = checked_updates(self.sampler, ids, td_errors)
        with self._lock:
            self._state.before_change()
            self._ignored_updates += self._state.opened().update_priorities(rows, errors)

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
            return self._batches.one(store, store.draw(np.array([rank], np.int64)), self.crc_debug)

    def _choose(self) -> Choice:
        return self.sampler.draw(self.batch_size, self._state.drawable(self.batch_size))

    def __getitem__(self, item: int) -> Any:
        """Returns transition `item` as `Memory.__getitem__` does, or what the `window` makes of it."""
        if type(self.window) is Transition:
            return super().__getitem__(item)
        six = self.get_transition(item)[:6]
        return six if self.sample_preprocessor is None else self.sample_preprocessor(*six)

    def _rank(self, index: int) -> int:
        n, rank = len(self), operator.index(index)
        if not -n <= rank < n:
            raise IndexError(f"transition {rank} is out of range: the memory holds {n}")
        return rank % n

    def _batch(self, pairs: Pairs, weights: NDArray[np.float32] | None = None) -> tuple[Batch, AnyDrawn]:
        store = self._state.opened()
        documented = None
        if self.sample_preprocessor is not None:
            ranks = store.anchors.ranks(pairs[:, 1]).tolist()
            documented = self.collate([self[rank] for rank in ranks], self.device)
        return self._batches.make(
            store, pairs, weights, self.device, self.contiguous, self.crc_debug, documented
        )

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
            arguments: Arguments of the constructor, in place of those that were saved. Not saved are
                preprocessors, the device, the spaces, and the sampler, only where it stands: a sampler of
                another kind begins afresh. A `dataset_path` is not read: its rows were saved.

        Raises:
            DatasetError: The folder holds no memory, or a damaged one; the message names the file.
            SchemaError: Its rows have another layout than the arguments ask for.
            StorageError: The `storage_path` holds a memory already.
        """
        settings: dict[str, Any] = memory_in(read_manifest(Path(path))[0])["settings"]
        given: dict[str, Any] = {**settings, **made_of(settings), **arguments, "dataset_path": ""}
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
            self._batches.forget()
            self._drawn = None
            of_folder = partial(read_rows, folder, body), partial(read_priorities, folder)
            self._state.load(body, checksum, *of_folder)

    def flush(self) -> None:
        """Puts the rows and all the rest on the disk, so that they survive a power cut; nothing in RAM.

        Other threads may append and draw meanwhile.
        """
        self._state.flush()

    def close(self) -> None:
        """Flushes a memory that lives in a folder, and lets others open it. A closed memory is empty."""
        if self._flushes is not None:
            self._flushes.stop()
        if self._prefetcher is not None:
            self._prefetcher.close()
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
            setattr(self, name, counters.get(name, 0))

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
            return summary(
                self._state,
                self._drawn,
                draws=self._draws,
                ignored_updates=self._ignored_updates,
                crc_checked=self.crc_checked,
            )

    def __repr__(self) -> str:
        return f"ReplayMemory({len(self)} of {self.memory_size} transitions, batch_size={self.batch_size})"
