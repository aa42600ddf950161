"""RecordLog: records in the order of their numbers, kept until they are forgotten; here in memory.

The outbox of a worker and the spool of a server are logs: what is to be sent is appended, read from where the
other side stands, and forgotten when it says that it has it. `tmrl.networking.disk_log` keeps one on disk.
"""

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Self, final

from tmrl.errors import StorageError

HEAD_BYTES = 24
"""What each record counts besides its payload: on disk its head, in memory about what Python adds."""
MAX_RECORD_BYTES = 1 << 30
"""Of one payload; systems write and read no more than 2 GiB in one call."""


class RecordLog(ABC):
    """Records, each with a number: 0, 1, 2, ... without holes, in the order in which they came.

    Used in a `with` statement, it closes itself. For one thread at a time, except for `sync`.

    Args:
        max_bytes: How much is held at most. Each record counts with its payload and 24 bytes.

    Attributes:
        max_bytes: As given.
        noted: What `note` was given last; empty before. Not to be changed.
        damaged: Numbers of records that opening found damaged or missing; `read` refuses them.
    """

    noted: dict[str, Any]
    damaged: tuple[range, ...] = ()

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.max_bytes = max_bytes

    @property
    @abstractmethod
    def first(self) -> int:
        """Number of the oldest record held; `next` if there is none."""

    @property
    @abstractmethod
    def next(self) -> int:
        """Number that the next record will get."""

    @property
    @abstractmethod
    def n_bytes(self) -> int:
        """Bytes of the records held; on disk also of forgotten ones whose file is still in use."""

    @abstractmethod
    def has_room(self, n_bytes: int, before: int = 0) -> bool:
        """Whether `max_bytes` allows a record with a payload of `n_bytes`.

        Args:
            n_bytes: Of the payload.
            before: Whether it would once the records before this number were forgotten; by default, whether
                it does now.
        """

    def note(self, document: dict[str, Any], forget: int = 0) -> None:
        """Keeps a small JSON document of the owner's in place of the last one, as safe as the log can.

        Args:
            document: The document; the log's from now on.
            forget: Gives up the records before this number in the same step: a log that is opened again has
                done both or neither, whatever happened in between.

        Raises:
            TypeError: The document is no JSON.
            StorageError: It could not be written; the last one is still there, and so are the records.
            ValueError: Some of the records were not appended yet.
        """
        self._require_appended(forget)
        self._note(document, max(forget, self.first))
        self.forget(forget)

    @abstractmethod
    def _note(self, document: dict[str, Any], first: int) -> None: ...

    @abstractmethod
    def append(self, parts: Sequence[bytes | memoryview]) -> int:
        """Takes in one record.

        Args:
            parts: Joined, its payload; copied. Views must be contiguous.

        Returns:
            Its number.

        Raises:
            StorageError: There is no room. The log is as it was.
            ValueError: The record is larger than 1 GiB.
        """

    @abstractmethod
    def read(self, start: int, max_bytes: int) -> list[bytes]:
        """Payloads of records from `start` on: one if there is one, and what else `max_bytes` allows.

        Args:
            start: Number of the first.
            max_bytes: Of all of them, each counted with its 24 bytes.

        Raises:
            LookupError: Record `start` is forgotten, or comes after the next one.
            StorageError: Record `start` is damaged. One further on ends the list, and is no error yet.
        """

    @abstractmethod
    def sync(self) -> int:
        """Makes what was appended before the call safe from a power cut, if the log can.

        Another thread may call it while the owner goes on; it lets the others run.

        Returns:
            Number of the first record that may not be safe.

        Raises:
            StorageError: The disk failed.
        """

    def forget(self, before: int) -> None:
        """Gives up the records before a number; those that are given up already may be given up again.

        Raises:
            ValueError: Some were not appended yet.
        """
        self._require_appended(before)
        if before > self.first:
            self._forget(before)

    def _require_appended(self, before: int) -> None:
        if before > self.next:
            raise ValueError(
                f"before must be at most the number of the next record, {self.next}, got {before}; "
                "only what was appended can be forgotten"
            )

    @abstractmethod
    def _forget(self, before: int) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Ends the use of the log; closing twice is the same as once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_room(self, n_bytes: int) -> None:
        if n_bytes > MAX_RECORD_BYTES:
            raise ValueError(
                f"a record must be at most {MAX_RECORD_BYTES:,} bytes, got {n_bytes:,}; split it"
            )
        if not self.has_room(n_bytes):
            raise StorageError(
                f"a log must stay within max_bytes={self.max_bytes:,}, but it holds {self.n_bytes:,} bytes "
                f"and the record takes {HEAD_BYTES + n_bytes:,}; forget records first, or allow more"
            )

    def _require_known(self, start: int) -> None:
        if not self.first <= start <= self.next:
            raise LookupError(
                f"start must be from {self.first}, the oldest record held, to {self.next}, the next one, "
                f"got {start}"
            )


def damaged_from(log: RecordLog, start: int) -> tuple[int, ...]:
    """A zero for each damaged record from number `start` on, up to the first that can be read."""
    return next(((0,) * (damaged.stop - start) for damaged in log.damaged if start in damaged), ())


@final
class RamLog(RecordLog):
    """A log in memory. It is gone with the process, so no record is ever safe: `sync` returns `first`."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self.noted = {}
        self._records: list[bytes] = []  # the first few of them forgotten, and empty by now
        self._starts = array("q", [0])  # how many bytes came before each, and before the next one
        self._n_forgotten = 0  # at the beginning of both
        self._first = 0

    @property
    def first(self) -> int:
        """See `RecordLog`."""
        return self._first

    @property
    def next(self) -> int:
        """See `RecordLog`."""
        return self._first + len(self._records) - self._n_forgotten

    @property
    def n_bytes(self) -> int:
        """See `RecordLog`."""
        return self._starts[-1] - self._starts[self._n_forgotten]

    def _place(self, number: int) -> int:
        return number - self._first + self._n_forgotten

    def has_room(self, n_bytes: int, before: int = 0) -> bool:
        """See `RecordLog`."""
        oldest = min(max(before, self._first), self.next)
        held_bytes = self._starts[-1] - self._starts[self._place(oldest)]
        return held_bytes + HEAD_BYTES + n_bytes <= self.max_bytes

    def _note(self, document: dict[str, Any], first: int) -> None:  # noqa: ARG002
        self.noted = document

    def append(self, parts: Sequence[bytes | memoryview]) -> int:
        """See `RecordLog`."""
        record = b"".join(parts)
        self._require_room(len(record))
        self._records.append(record)
        self._starts.append(self._starts[-1] + HEAD_BYTES + len(record))
        return self.next - 1

    def read(self, start: int, max_bytes: int) -> list[bytes]:
        """See `RecordLog`; the payloads are not copied."""
        self._require_known(start)
        place = self._place(start)
        stop = bisect_right(self._starts, self._starts[place] + max_bytes, place) - 1
        return self._records[place : max(stop, place + 1)]

    def sync(self) -> int:
        """Does nothing, and says so."""
        return self._first

    def _forget(self, before: int) -> None:
        n_more = before - self._first
        self._records[self._n_forgotten : self._n_forgotten + n_more] = [b""] * n_more
        self._n_forgotten += n_more
        self._first = before
        # Half of them at least, so that none is moved more often than one is forgotten.
        if 2 * self._n_forgotten >= len(self._records):
            del self._records[: self._n_forgotten], self._starts[: self._n_forgotten]
            self._n_forgotten = 0

    def close(self) -> None:
        """Does nothing."""
