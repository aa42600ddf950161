"""The vocabulary: what a worker produces, what a memory hands out, what a transition is.

A worker emits one *sample* per `env.reset()` and one per `env.step()`:

    (act, obs, rew, terminated, truncated, info)        `act` is the action that led to `obs`

Two consecutive samples of one episode make one *transition*. An episode of L steps is L + 1 samples, the
final observation among them. A sample that knows where it comes from is a `Sample`: the same tuple, with a
`Stamp`. The stamp rides on the tuple itself, so that no surgery on a list of samples can separate the two.
"""

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, SupportsIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

SAMPLE_FIELDS = ("act", "obs", "rew", "terminated", "truncated", "info")
TRANSITION_FIELDS = ("prev_obs", "new_act", "rew", "new_obs", "terminated", "truncated")


def new_life() -> int:
    """A random number of 62 bits, not 0, that tells one life of something from all others.

    Not the time: clocks are set back, and those of robots begin anew at each start.
    """
    return secrets.randbelow((1 << 62) - 1) + 1


class Stamp(NamedTuple):
    """Where a sample stands in its stream."""

    worker: str
    """Name of the worker, unique among those that feed one memory."""
    epoch: int
    """One life of the worker; a restarted worker has another epoch, at random. A stream is named (worker,
    epoch). Of two lives the one whose samples come first is the earlier one."""
    step: int
    """Number of the sample in its stream, counting from 0 without holes, resets included."""
    episode: int
    """Number of the episode in its stream, counting from 0."""
    episode_step: int
    """Number of the sample in its episode; 0 is the reset sample."""
    source: str = "online"
    """Label of where the data come from: `online`, `demo`, `intervention`, ..."""
    policy_version: int = 0
    """Which of the trainer's policies acted, counting from 1; 0 for another."""


class Sample(tuple[Any, ...]):
    """A sample tuple that carries its `stamp`; equal to, and usable as, the plain tuple."""

    stamp: Stamp

    def __new__(cls, values: "Iterable[Any]", stamp: Stamp) -> Self:
        """Makes a stamped sample of the six `values`; a compressor may have made them any number."""
        self = super().__new__(cls, values)
        self.stamp = stamp
        return self

    def __getnewargs__(self) -> "tuple[tuple[Any, ...], Stamp]":  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(self), self.stamp


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One finished episode, as its worker saw it."""

    worker: str
    """Name of the worker."""
    episode_return: float
    """Undiscounted sum of the episode's rewards."""
    length: int
    """Number of steps, the reset not counted."""
    is_test: bool
    """Whether the policy acted as in deployment, and nothing was collected."""
    policy_version: int = 0
    """Number of policies the worker had received when the episode ended."""


class _Six(NamedTuple):
    prev_obs: Any
    new_act: Any
    rew: Any
    new_obs: Any
    terminated: Any
    truncated: Any


class RowIds(Protocol):
    """Row ids that are computed when they are asked for."""

    def ids(self) -> "NDArray[np.int64]":
        """`(B,)` int64 row ids of the anchors."""
        ...

    def info_ids(self) -> "NDArray[np.int64]":
        """`(B,)` or `(B, T + 1)` int64 ids of the rows that `info` is of."""
        ...


class Batch(_Six):
    """A tuple of exactly six, `(prev_obs, new_act, rew, new_obs, terminated, truncated)`, with attributes.

    Observations and actions are nested as the environment's and have the batch as first dimension; `rew`,
    `terminated` and `truncated` are float32 of shape `(B,)`. The batch is the caller's: the memory never
    writes to it again, and it never aliases what was appended.
    """

    _rows: RowIds
    _info: "Mapping[str, Any]"
    _weights: Any
    _beside: "Mapping[str, Any]"

    def __new__(
        cls,
        six: "Iterable[Any]",
        rows: RowIds,
        info: "Mapping[str, Any]",
        weights: Any = None,
        beside: "Mapping[str, Any] | None" = None,
    ) -> Self:
        """Makes a batch of the `six` parts, of the rows that it was made of, and of what comes beside."""
        self = tuple.__new__(cls, six)
        self._rows = rows
        self._info = info
        self._weights = weights
        self._beside = beside or {}
        return self

    @property
    def ids(self) -> "NDArray[np.int64]":
        """`(B,)` int64 row ids of the anchors, in the order of the batch; never reused by the memory."""
        return self._rows.ids()

    @property
    def info_ids(self) -> "NDArray[np.int64]":
        """Int64 ids of the rows that the entries of `info` are of: those that `memory.write` changes.

        `(B,)`, the same as `ids`; of sequences `(B, T + 1)`, and -1 in the padding.
        """
        return self._rows.info_ids()

    @property
    def weights(self) -> Any:
        """`(B,)` float32 importance weights on the batch's device; ones unless the sampler weighs."""
        if self._weights is None:
            self._weights = self.rew.new_ones(self.rew.shape)
        return self._weights

    @property
    def info(self) -> "Mapping[str, Any]":
        """Entry of `info_keys` to a nest of tensors `(B, ...)`: what the step that led to `new_obs` said."""
        return self._info

    @property
    def discounts(self) -> Any:
        """`(B,)` float32: by what to multiply the value of `new_obs`; None unless the window says.

        With n-step returns it is `discount ** n_steps`, for the steps that `rew` really sums up.
        """
        return self._beside.get("discounts")

    @property
    def n_steps(self) -> Any:
        """`(B,)` int64 steps that `rew` sums up; None unless the window says."""
        return self._beside.get("n_steps")

    @property
    def mask(self) -> Any:
        """`(B, T)` float32, 1 where a sequence has a step to learn from; None unless the window says."""
        return self._beside.get("mask")

    @property
    def is_first(self) -> Any:
        """`(B, T)` bool, whether `prev_obs` begins an episode; None unless the window says."""
        return self._beside.get("is_first")

    def _replace(self, **changes: Any) -> "Batch":  # pyright: ignore[reportIncompatibleMethodOverride]
        """A batch with other parts in place of some of the six, and the same attributes."""
        six = super()._replace(**changes)
        return Batch(six, self._rows, self._info, self._weights, self._beside)

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> "tuple[Any, ...]":
        return Batch, (tuple(self), self._rows, self._info, self._weights, self._beside)
