"""Contents: what each parcel of an outbox holds, so that none has to be read again to drop some."""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from tmrl.networking.parcel import summary
from tmrl.networking.record_log import RecordLog, damaged_from

READ_AT_ONCE = 1 << 24
"""Bytes of parcels that an earlier process left."""

Content = tuple[int, int]
"""Samples in a parcel, and episodes that end in it."""


def content_of(parts: Sequence[bytes | memoryview]) -> Content:
    """What a parcel says that it holds; only its beginning is looked at.

    Raises:
        ParcelError: It is none.
    """
    head = parts[0] if len(parts) == 1 else b"".join(parts[:2])
    return summary(head)[:2]


class Contents:
    """Samples of the parcels in a log, and in which of them episodes end.

    Args:
        log: Has the parcels; those that are in it are read.
        first: Number of the first that counts.
    """

    def __init__(self, log: RecordLog, first: int) -> None:
        self._first = first
        self._samples: deque[int] = deque()
        self._ends: deque[int] = deque()
        while (number := self._first + len(self._samples)) < log.next:
            damaged = damaged_from(log, number)
            found = [] if damaged else map(content_of, ([data] for data in log.read(number, READ_AT_ONCE)))
            for content in [*found, *((0, 0) for _ in damaged)]:
                self.add(content)

    def add(self, content: Content) -> None:
        """Notes the next parcel."""
        n_samples, n_ended = content
        if n_ended:
            self._ends.append(self._first + len(self._samples))
        self._samples.append(n_samples)

    def episode_stop(self, number: int) -> int | None:
        """The number after the first parcel from this one on in which an episode ends; None if none does."""
        return next((end + 1 for end in self._ends if end >= number), None)

    def samples(self, stop: int) -> list[int]:
        """Samples of each parcel before a number."""
        return list(islice(self._samples, max(0, stop - self._first)))

    def forget(self, before: int) -> None:
        """Forgets the parcels before a number."""
        while self._samples and self._first < before:
            self._samples.popleft()
            self._first += 1
        while self._ends and self._ends[0] < before:
            self._ends.popleft()
