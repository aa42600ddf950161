"""Memory: the documented interface of a replay memory, and its per-sample path.

A subclass says how samples are stored (`append_buffer`), how many transitions there are (`__len__`), what
transition an index means (`get_transition`) and what a batch is (`collate`). The rest is here, and which
method calls which is part of the interface, because subclasses override any of them:

    __iter__ -> sample -> sample_indices
                       -> self[i] -> get_transition, CRC check, sample_preprocessor, flags to float32
                       -> collate
    append -> append_buffer

Each transition of a batch passes through python here; `ReplayMemory` does the same for a batch at once.
"""

import inspect
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tmrl.datasets.pickle_file import read_columns
from tmrl.errors import EmptyMemoryError, IntegrityError
from tmrl.integrity import check_transition
from tmrl.nest import as_array, flatten, leaf_names

if TYPE_CHECKING:
    from tmrl.buffer import Buffer

logger = logging.getLogger(__name__)

SamplePreprocessor = Callable[[Any, Any, Any, Any, Any, Any], tuple[Any, Any, Any, Any, Any, Any]]


class Memory(ABC):
    """Interface of a replay memory. A subclass overriding `__init__` takes all these arguments and passes on.

    `len(self)` is called by `__init__`, so a subclass sets the attributes that its `__len__` reads before it
    calls `super().__init__`. The sizes and the preprocessor may be reassigned at any time.

    Args:
        device: Where `collate` is asked to put batches.
        nb_steps: Number of batches that one iteration over the memory yields.
        sample_preprocessor: Called as `(prev_obs, new_act, rew, new_obs, terminated, truncated)` for every
            transition drawn, returns the same six; for data augmentation.
        memory_size: Most transitions to keep; may be a float such as `1e6`. Keeping to it is the subclass's.
        batch_size: Number of transitions in a batch.
        dataset_path: Folder whose `data.pkl` fills `data`; `""` means none. Only arrays, numbers and builtin
            containers are read from it. If it is missing, the memory starts empty and the log says so.
        crc_debug: Whether every transition drawn is compared with the checksums that its worker put into its
            `info`; the worker must be in CRC mode too.

    Attributes:
        data: A list that belongs to the subclass, which lays it out as it likes.
        crc_checked: Number of transitions that CRC debugging has compared and found equal.
        stat_train_return: Return of the newest training episode, from the newest Buffer that was not empty.
        stat_test_return: Return of the newest test episode.
        stat_train_steps: Length of the newest training episode, in steps.
        stat_test_steps: Length of the newest test episode, in steps.
    """

    def __init__(
        self,
        device: Any,
        nb_steps: int = 1,
        sample_preprocessor: SamplePreprocessor | None = None,
        memory_size: float = 1_000_000,
        batch_size: int = 256,
        dataset_path: str | Path = "",
        crc_debug: bool = False,
    ) -> None:
        for name, value in (("nb_steps", nb_steps), ("memory_size", memory_size), ("batch_size", batch_size)):
            if not value >= 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.nb_steps = nb_steps
        self.device = device
        self.batch_size = batch_size
        self.memory_size = memory_size
        self.sample_preprocessor = sample_preprocessor
        self.crc_debug = crc_debug
        self.crc_checked = 0
        self.stat_train_return = 0.0
        self.stat_test_return = 0.0
        self.stat_train_steps = 0
        self.stat_test_steps = 0
        self.data: list[Any] = _read_dataset(dataset_path)
        if len(self) > memory_size:
            self._keep_newest(dataset_path)

    @abstractmethod
    def append_buffer(self, buffer: "Buffer") -> Any:
        """Stores `buffer.memory`, a list of samples; the Buffer stays the caller's. The result is ignored.

        A memory that knows sources and streams takes `*, source="online", continues=False` too.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Number of transitions that can be drawn: the greatest index that `get_transition` takes, plus 1."""

    @abstractmethod
    def get_transition(self, item: int) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
        """Returns transition `item` as `(prev_obs, new_act, rew, new_obs, terminated, truncated, info)`.

        `new_act` is the action that led from `prev_obs` to `new_obs`; `info` is the one of `new_obs`.
        """

    @abstractmethod
    def collate(self, batch: Sequence[Any], device: Any) -> Any:
        """Makes one batch on `device` of a list of what `self[i]` returns."""

    def append(self, buffer: "Buffer", *, source: str = "online", continues: bool = False) -> None:
        """Takes the statistics of a Buffer and stores its samples; an empty Buffer changes nothing.

        Args:
            buffer: A Buffer, or anything with `memory`, `len()` and the four `stat_*` attributes.
            source: Label of where the data come from.
            continues: Whether unstamped samples go on where the previous Buffer ended.

        Raises:
            TypeError: `source` or `continues` was given, and the memory's `append_buffer` does not take it.
        """
        options = _given_options(source, continues)
        if options:
            self._check_understood(options)
        if len(buffer) == 0:
            return
        self.stat_train_return = buffer.stat_train_return
        self.stat_test_return = buffer.stat_test_return
        self.stat_train_steps = buffer.stat_train_steps
        self.stat_test_steps = buffer.stat_test_steps
        self.append_buffer(buffer, **options)

    def __iter__(self) -> Iterator[Any]:
        """Yields `nb_steps` batches; each is drawn when it is asked for, so the memory may grow meanwhile."""
        for _ in range(self.nb_steps):
            yield self.sample()

    def sample(self) -> Any:
        """Draws a batch.

        Raises:
            EmptyMemoryError: The memory holds no transition.
        """
        return self.collate([self[index] for index in self.sample_indices()], self.device)

    def sample_indices(self) -> Iterable[int]:
        """Yields `batch_size` indices, uniform and with replacement, from the global state of `random`.

        Raises:
            EmptyMemoryError: The memory holds no transition.
        """
        if len(self) == 0:
            raise EmptyMemoryError(
                f"cannot draw {self.batch_size} transitions: the memory holds 0; append a Buffer first"
            )
        for _ in range(self.batch_size):
            yield random.randint(0, len(self) - 1)

    def __getitem__(self, item: int) -> Any:
        """Returns transition `item` as the six that `collate` takes: checked, preprocessed, flags float32.

        Raises:
            IntegrityError: In CRC mode, the transition is not the one that its worker saw.
        """
        prev_obs, new_act, rew, new_obs, terminated, truncated, info = self.get_transition(item)
        if self.crc_debug:
            _check_crc(info, prev_obs, new_act, rew, new_obs, terminated, truncated)
            self.crc_checked += 1
        if self.sample_preprocessor is not None:
            prev_obs, new_act, rew, new_obs, terminated, truncated = self.sample_preprocessor(
                prev_obs, new_act, rew, new_obs, terminated, truncated
            )
        return prev_obs, new_act, rew, new_obs, np.float32(terminated), np.float32(truncated)

    def _check_understood(self, options: dict[str, Any]) -> None:
        if not _takes(type(self).append_buffer, *options):
            given = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise TypeError(
                f"append_buffer must take what append got, but {type(self).__name__}.append_buffer does "
                f'not take {given}; leave it out, or define append_buffer(buffer, *, source="online", '
                "continues=False)"
            )

    def _keep_newest(self, dataset_path: str | Path) -> None:
        """Drops the oldest entries of every column, if `data` is laid out in columns."""
        held, limit, columns = len(self), int(self.memory_size), self.data
        if all(isinstance(column, list | tuple | np.ndarray) for column in columns):
            self.data = [column[held - limit :] for column in columns]
        outcome = "the newest are kept"
        if len(self) != limit:
            self.data = columns
            outcome = "all are kept, because only the memory knows how they are laid out"
        logger.warning(
            "%s holds %d transitions, more than memory_size=%d: %s", dataset_path, held, limit, outcome
        )


@lru_cache
def _takes(append_buffer: Callable[..., Any], *names: str) -> bool:
    """Whether a memory's `append_buffer` takes these keywords; looking costs 20 us, hence the cache."""
    try:
        inspect.signature(append_buffer).bind(None, None, **dict.fromkeys(names))
    except TypeError:
        return False
    return True


def _given_options(source: str, continues: bool) -> dict[str, Any]:
    """The options that are not at their defaults: only these reach `append_buffer`, which may know none."""
    options: dict[str, Any] = {}
    if source != "online":
        options["source"] = source
    if continues:
        options["continues"] = True
    return options


def _read_dataset(dataset_path: str | Path) -> list[Any]:
    if str(dataset_path) == "":
        return []
    file = Path(dataset_path) / "data.pkl"
    if not file.is_file():
        logger.warning(
            "dataset_path=%r holds no data.pkl: the memory starts empty; leave it out if that is meant",
            str(dataset_path),
        )
        return []
    return read_columns(file)


def _check_crc(
    info: Any, prev_obs: Any, act: Any, rew: Any, obs: Any, terminated: Any, truncated: Any
) -> None:
    """Compares a transition with `info["crc"]`, or with the older `info["crc_sample"]` if that is all."""
    if isinstance(info, dict) and "crc" not in info and "crc_sample" in info:
        rebuilt = (prev_obs, act, obs, rew, terminated, truncated)
        arguments: tuple[Any, ...] = (*info["crc_sample"], *rebuilt, *info["crc_sample_ts"])
        check_samples_crc(*arguments)
    else:
        check_transition(info, prev_obs, act, obs, rew, terminated, truncated)


def check_samples_crc(
    original_prev_obs: Any,
    original_act: Any,
    original_obs: Any,
    original_rew: Any,
    original_terminated: Any,
    original_truncated: Any,
    prev_obs: Any,
    new_act: Any,
    new_obs: Any,
    rew: Any,
    terminated: Any,
    truncated: Any,
    time_step: Any,
    time_step_since_reset: Any,
) -> None:
    """Compares a transition with the one that its worker saw, leaf by leaf: dtype, shape and every bit.

    Rewards and flags are compared as float32. An original previous observation of `None` is not compared.

    Raises:
        IntegrityError: A leaf differs; the message names it, the time step and both values. It is an
            `AssertionError` too.
    """
    if original_prev_obs is None:
        prev_obs = None
    expected = _leaves(
        original_prev_obs, original_act, original_obs, original_rew, original_terminated, original_truncated
    )
    found = _leaves(prev_obs, new_act, new_obs, rew, terminated, truncated)
    for name in {**expected, **found}:
        if not _is_identical(expected.get(name), found.get(name)):
            raise IntegrityError(
                f"{name} of time step {time_step} ({time_step_since_reset} since the reset) is not what the "
                f"worker saw: expected {expected.get(name)!r}, found {found.get(name)!r}; a "
                "sample_compressor, get_transition or something between changed it"
            )


def _leaves(prev_obs: Any, act: Any, obs: Any, rew: Any, terminated: Any, truncated: Any) -> dict[str, Any]:
    """The leaves of a transition as arrays, by leaf name; rewards and flags as float32."""
    flags = {"rew": rew, "terminated": terminated, "truncated": truncated}
    nests = {"prev_obs": prev_obs, "act": act, "obs": obs}
    nests |= {name: np.float32(number) for name, number in flags.items()}
    named: dict[str, Any] = {}
    for name, nest in nests.items():
        leaves, treespec = flatten(nest)
        arrays = [as_array(leaf)[0] for leaf in leaves]
        named.update(zip(leaf_names(name, treespec), arrays, strict=True))
    return named


def _is_identical(expected: Any, found: Any) -> bool:
    if expected is None or found is None or expected.dtype != found.dtype or expected.shape != found.shape:
        return False
    if expected.dtype.hasobject:  # its bytes are addresses
        return bool((expected == found).all())
    return expected.tobytes() == found.tobytes()
