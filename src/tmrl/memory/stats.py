"""What is in a memory, where it came from, and how old what is drawn is."""

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIME_RESOLUTION_S = 0.05
MAX_TIMES = 4096
MAX_SAVED = 512

WORKER, SOURCE = 0, 1
"""The parts of an origin."""


@dataclass(slots=True)
class Counts:
    """What happened to samples, since the memory was made."""

    appended: int = 0
    """Rows taken in."""
    evicted: int = 0
    """Rows that made room for newer ones."""
    refused: int = 0
    """Samples refused at the door, because one of their Buffer did not fit."""
    duplicates: int = 0
    """Samples dropped because their steps had been passed before: late, or sent twice."""
    gaps: int = 0
    """Steps that never arrived, as far as the numbers of those around them show."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.appended + other.appended,
            self.evicted + other.evicted,
            self.refused + other.refused,
            self.duplicates + other.duplicates,
            self.gaps + other.gaps,
        )

    @property
    def rows(self) -> int:
        """Rows in the memory now."""
        return self.appended - self.evicted


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """A snapshot of a memory; counts since it was made, ages of the newest batch drawn."""

    transitions: int
    """Transitions that can be drawn: `len(memory)`."""
    rows: int
    """Rows held; each episode, and each gap, costs one more than it has transitions."""
    capacity: int
    """Most transitions: `memory_size`; 0 until the first Buffer if that is a budget of bytes."""
    bytes_now: int
    """Bytes of the rows held and their index; 0 until the first Buffer."""
    bytes_full: int
    """Bytes of rows and index when full; 0 until the first Buffer."""
    appended: int
    evicted: int
    refused: int
    duplicates: int
    gaps: int
    draws: int
    """Transitions drawn by `sample()`."""
    ignored_updates: int
    """Priorities of transitions that had been evicted before `update_priorities` was called."""
    damaged: int
    """Rows that were found damaged or missing when a `storage_path` was opened, and were taken out."""
    writes_ignored: int
    """Rows that `write` was to change and that were evicted already, since the memory was made or opened."""
    crc_checked: int
    """Transitions that CRC debugging has compared and found equal."""
    age_rows_p50: float
    """Median age of the newest batch, in rows appended since; NaN before the first."""
    age_rows_p95: float
    age_s_p50: float
    """Median age of the newest batch, in seconds since its rows were appended; NaN before the first."""
    age_s_p95: float
    policy_version: int
    """The newest of the trainer's policies that acted in a sample so far; 0 before any did."""
    policy_lag_p50: float
    """Median lag of the newest batch: how many newer policies than a row's own have acted by now. NaN before
    the first batch, and where nothing is known of rows that were there before this process."""
    policy_lag_p95: float
    workers: dict[str, Counts] = field(default_factory=dict[str, Counts])
    """Counts of each worker; samples without a stamp are those of `unstamped`."""
    sources: dict[str, Counts] = field(default_factory=dict[str, Counts])
    """Counts of each source label."""


class Tally:
    """Counts by origin, a (worker, source) pair with a small code that is kept beside each row."""

    def __init__(self) -> None:
        self.codes: dict[tuple[str, str], int] = {}
        self.counts: list[Counts] = []

    def code(self, worker: str, source: str) -> int:
        """The code of an origin, new or known."""
        code = self.codes.setdefault((worker, source), len(self.counts))
        if code == len(self.counts):
            self.counts.append(Counts())
        return code

    def of(self, worker: str, source: str) -> Counts:
        """The counts of an origin, to be added to."""
        return self.counts[self.code(worker, source)]

    def worker(self, code: int) -> str:
        """The worker with this code."""
        return list(self.codes)[code][0]

    def source(self, code: int) -> str:
        """The source label with this code."""
        return list(self.codes)[code][1]

    def evict(self, codes: NDArray[np.int32]) -> None:
        """Counts rows as evicted, by the codes of their origins; negative ones stand for no row."""
        if len(codes) == 1 and codes[0] >= 0:
            self.counts[int(codes[0])].evicted += 1
            return
        for code, n in enumerate(np.bincount(codes[codes >= 0]).tolist()):
            self.counts[code].evicted += n

    def resume(self, held: NDArray[np.int32], new: NDArray[np.int32]) -> None:
        """Brings counts up to date by the rows that are held.

        Args:
            held: Codes of all of them.
            new: Codes of those that arrived after the counts were taken.
        """
        n_held, n_new = (np.bincount(codes, minlength=len(self.counts)) for codes in (held, new))
        for counts, rows, arrived in zip(self.counts, n_held.tolist(), n_new.tolist(), strict=True):
            counts.appended += arrived
            counts.evicted = counts.appended - rows

    def state(self) -> list[list[Any]]:
        """All counts, in the order of the codes, as what `json.dumps` takes."""
        return [[*origin, *astuple(self.counts[code])] for origin, code in self.codes.items()]

    def restore(self, state: list[list[Any]]) -> None:
        """Takes over what `state` returned."""
        self.codes = {(worker, source): code for code, (worker, source, *_) in enumerate(state)}
        self.counts = [Counts(*counts) for _, _, *counts in state]

    def total(self) -> Counts:
        """All origins together."""
        return sum(self.counts, Counts())

    def by(self, part: int) -> dict[str, Counts]:
        """Counts by `WORKER` or by `SOURCE`."""
        merged: dict[str, Counts] = {}
        for origin, code in self.codes.items():
            merged[origin[part]] = merged.get(origin[part], Counts()) + self.counts[code]
        return merged


class ByRow:
    """A number that holds for the rows from one id on, until the next; exact until there are `MAX_TIMES`."""

    def __init__(self) -> None:
        self.first_ids: list[int] = []
        self.values: list[Any] = []

    def note(self, first_id: int, value: float) -> None:
        """Notes that it holds for the rows from this id on."""
        self.first_ids.append(first_id)
        self.values.append(value)
        if len(self.values) > MAX_TIMES:
            self.first_ids, self.values = self.first_ids[::2], self.values[::2]

    def thinned(self) -> list[tuple[int, Any]]:
        """The ids and the numbers, at most about `MAX_SAVED` of them."""
        pairs = list(zip(self.first_ids, self.values, strict=True))
        return pairs[:: 1 + len(pairs) // MAX_SAVED]

    def restore(self, pairs: list[tuple[int, Any]]) -> None:
        """Takes over what `thinned` returned."""
        self.first_ids, self.values = [first for first, _ in pairs], [value for _, value in pairs]

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the numbers of rows stand; -1 for rows before the first one noted."""
        return np.searchsorted(self.first_ids, ids, side="right") - 1


class ArrivalTimes:
    """When rows arrived, to within `TIME_RESOLUTION_S`, or coarser the longer the memory lives.

    Args:
        clock: Seconds; monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._times = ByRow()

    def note(self, first_id: int) -> None:
        """Notes that rows from this id on arrive now."""
        now = self.clock()
        if not self._times.values or now - self._times.values[-1] >= TIME_RESOLUTION_S:
            self._times.note(first_id, now)

    def state(self) -> list[tuple[int, float]]:
        """Ids and the seconds since 1970 at which they arrived, as what `json.dumps` takes."""
        offset = time.time() - self.clock()
        return [(first_id, round(seconds + offset, 3)) for first_id, seconds in self._times.thinned()]

    def restore(self, state: list[tuple[int, float]]) -> None:
        """Takes over what `state` returned, maybe in another process."""
        now = self.clock()
        offset = time.time() - now
        # Not in the future, though the wall clock may have been set back meanwhile.
        self._times.restore([(first_id, min(seconds - offset, now)) for first_id, seconds in state])

    def ages_s(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds since rows arrived; NaN where nothing is known of them, as after a kill."""
        if not self._times.values:
            return np.full(len(ids), np.nan)
        places = self._times.places(ids)
        return self.clock() - np.asarray(self._times.values)[np.maximum(places, 0)]


class PolicyVersions:
    """Which policy acted in which rows, exactly where it seldom changes, else to within a few rows.

    Attributes:
        newest: The newest version noted; 0 before the first.
    """

    def __init__(self) -> None:
        self.newest = 0
        self._versions = ByRow()

    def note(self, first_id: int, version: int) -> None:
        """Notes that this policy acted in the rows from this id on."""
        self.newest = max(self.newest, version)
        if not self._versions.values or self._versions.values[-1] != version:
            self._versions.note(first_id, version)

    def state(self) -> list[tuple[int, int]]:
        """Ids and the versions that acted in the rows from there on, as what `json.dumps` takes."""
        return self._versions.thinned()

    def restore(self, state: list[tuple[int, int]]) -> None:
        """Takes over what `state` returned."""
        self._versions.restore(state)
        self.newest = max(self._versions.values, default=0)

    def of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The versions that acted in rows; 0 where none did, or none is known of."""
        if not self._versions.values:
            return np.zeros(len(ids), np.int64)
        places = self._versions.places(ids)
        return np.where(places < 0, 0, np.asarray(self._versions.values, np.int64)[np.maximum(places, 0)])


def percentile(values: NDArray[np.float64], q: float) -> float:
    """The q-th percentile; NaN of nothing."""
    return float(np.percentile(values, q)) if len(values) else float("nan")
