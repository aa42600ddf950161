"""Spool: the parcels that a server holds for its trainer, in the order in which they came.

One `RecordLog` for all workers. Each record says whose parcel it is and which, so that the ledger of what has
come can be read from the records again; what is forgotten leaves its part of it in the log's note. On a disk,
a parcel is durable once it is synced. In RAM nothing here is: then it is durable once the trainer says so,
and until then the worker keeps its own copy. No worker can fill it alone, see `tmrl.networking.shares`.

    record   kind, epoch, number, samples, bytes of the name | name | padding | parcel, or where a Skip stops
"""

import logging
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tmrl.errors import ParcelError, ProtocolError, StorageError
from tmrl.networking.claims import check_own
from tmrl.networking.delivery import Ledger, Position, news_in
from tmrl.networking.messages import MAX_NUMBER, MAX_PARCEL_BYTES, Nack, Put, Skip
from tmrl.networking.parcel import summary
from tmrl.networking.record_log import HEAD_BYTES, RecordLog, damaged_from
from tmrl.networking.shares import Shares
from tmrl.transition import new_life

logger = logging.getLogger(__name__)

_HEAD = struct.Struct("<BQQQH")
_PARCEL, _SKIP = 0, 1
ALIGN = 16
"""A parcel begins at a multiple of it, so that rows in it are read where they are."""
MAX_HEAD_BYTES = 512
"""More than a record adds to its parcel."""
LEDGER_BYTES = 1 << 24
"""More than the note of a ledger takes, of as many workers as a server may know."""
RELEASE_INTERVAL_S = 1.0
"""From one release of room to the next, while there is enough."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: a parcel, or numbers that were skipped."""

    name: str
    """Of the worker."""
    epoch: int
    """Of its outbox."""
    number: int
    """Of the parcel, or of the first one skipped."""
    samples: int
    """In the parcel, or in all that were skipped."""
    parcel: memoryview | None
    """None where numbers were skipped."""
    stop: int
    """Number that comes next in this epoch."""


def to_record(name: str, epoch: int, number: int, samples: int, parcel: Any) -> list[Any]:
    """A parcel of a worker as the parts of a record."""
    return [*_head(_PARCEL, name, epoch, number, samples), parcel]


def skip_record(name: str, epoch: int, skip: Skip) -> list[bytes]:
    """Skipped numbers as the parts of a record."""
    return [*_head(_SKIP, name, epoch, skip.first, sum(skip.samples)), skip.stop.to_bytes(8, "little")]


def _head(kind: int, name: str, epoch: int, number: int, samples: int) -> list[bytes]:
    label = name.encode()
    padding = bytes(-(_HEAD.size + len(label)) % ALIGN)
    return [_HEAD.pack(kind, epoch, number, samples, len(label)), label, padding]


def from_record(record: bytes | memoryview) -> Record:
    """Reads a record; its parcel is a view.

    Raises:
        ParcelError: It is none.
    """
    view = memoryview(record)
    try:
        kind, epoch, number, samples, n_label = _HEAD.unpack_from(view)
        start = _HEAD.size + n_label
        name = bytes(view[_HEAD.size : start]).decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise ParcelError(f"a record of a spool must have a head, got none: {error}") from error
    start += -start % ALIGN
    if kind not in {_PARCEL, _SKIP} or len(view) < start or max(epoch, number) >= 2 * MAX_NUMBER:
        raise ParcelError("a record of a spool must hold a parcel or skipped numbers, got something else")
    if kind == _PARCEL:
        return Record(name, epoch, number, samples, view[start:], number + 1)
    if len(view) != start + 8:
        raise ParcelError("a record of skipped numbers must say where they stop, and does not")
    return Record(name, epoch, number, samples, None, int.from_bytes(view[start:], "little"))


class Spool:
    """Parcels of all workers, kept until the trainer says that they are durable with it.

    Thread-safe for `sync` alone: it may run beside everything else.

    Args:
        log: Where they are kept; the spool's from now on.
        is_durable: Whether the log outlives the process.

    Attributes:
        ledger: How far each worker has come.
        is_durable: As given.
        synced: Number of the first record that may not be on the disk.
        identity: Random name of this spool; another one has another.
    """

    def __init__(self, log: RecordLog, is_durable: bool) -> None:
        self._log = log
        self.is_durable = is_durable
        noted = log.noted
        self.identity: int = noted.get("identity") or new_life()
        self.ledger = Ledger.from_json(noted.get("ledger", {}))
        self._unsafe: deque[tuple[int, Position, int]] = deque()
        self._shares = Shares(log.max_bytes)
        self._forgettable = log.first
        self._released_at = 0.0
        self._replay(max(log.first, int(noted.get("next", 0))))
        self._release()
        if is_durable:
            self._unsafe.clear()
            self.ledger.mark_durable()
        self.synced = log.next

    def _replay(self, number: int) -> None:
        """Reads into the ledger what came after it was noted."""
        while number < self._log.next:
            number += len(damaged_from(self._log, number))
            for data in self._log.read(number, 1 << 24) if number < self._log.next else ():
                record = from_record(data)
                self._enter(number, self.ledger.position(record.name, record.epoch, record.number), record)
                number += 1

    def _enter(self, number: int, position: Position, record: Record) -> None:
        enter(position, record)
        self._unsafe.append((number, position, record.stop))

    @property
    def first(self) -> int:
        """Number of the oldest record that the trainer may still need."""
        return max(self._log.first, self._forgettable)

    @property
    def next(self) -> int:
        """Number of the record that comes next."""
        return self._log.next

    @property
    def n_bytes(self) -> int:
        """Bytes held."""
        return self._log.n_bytes

    @property
    def max_bytes(self) -> int:
        """Most bytes to hold."""
        return self._log.max_bytes

    def has_room(self, name: str, put: Put) -> bool:
        """Whether the parcels of a worker's Put may be taken now."""
        size = len(put.body) + len(put.sizes) * MAX_HEAD_BYTES
        if not self._has_room(name, size):
            self._try_release()
        return self._has_room(name, size) or self.first == self._log.next

    def _has_room(self, name: str, size: int) -> bool:
        free_bytes = self._log.max_bytes - self._log.n_bytes
        return self._log.has_room(size) and self._shares.has_room(name, size, free_bytes)

    def take(self, name: str, position: Position, put: Put, is_strict: bool = False) -> Nack | None:
        """Keeps the parcels of a Put that are new; returns what to say if it leaves out a number.

        Args:
            name: Of the worker that sends.
            position: How far it has come.
            put: What it sends.
            is_strict: Whether samples must be its own, those of `name` or of its lanes, `name/0` and so on.

        Raises:
            ParcelError: One is none, or not its own; those before it are kept.
            StorageError: The disk is full.
        """
        news = news_in(position, put)
        if news is None:
            return Nack(position.expected)
        for number, parcel in news:
            n_samples = _checked(name, parcel, is_strict)
            parts = to_record(name, position.epoch, number, n_samples, parcel)
            record = Record(name, position.epoch, number, n_samples, parcel, number + 1)
            self._append(parts, position, record)
        return None

    def skip(self, name: str, position: Position, skip: Skip) -> Nack | None:
        """Notes numbers that will not come; returns what to say if others are left out."""
        if skip.first > position.expected:
            return Nack(position.expected)
        counts = skip.samples[position.expected - skip.first :]
        if counts:
            rest = Skip(position.expected, counts)
            record = Record(name, position.epoch, rest.first, sum(counts), None, rest.stop)
            self._append(skip_record(name, position.epoch, rest), position, record)
        return None

    def _append(self, parts: list[Any], position: Position, record: Record) -> None:
        number = self._appended(parts)
        self._shares.add(record.name, number, sum(map(len, parts)) + HEAD_BYTES)
        self._enter(number, position, record)

    def _appended(self, parts: list[Any]) -> int:
        try:
            return self._log.append(parts)
        except StorageError:  # a disk that has less room than the spool may take
            if self.first == self._log.first:
                raise
            self._release()
            return self._log.append(parts)

    def read(self, start: int, max_bytes: int) -> list[bytes]:
        """Records from number `start` on, at least one if there is one."""
        return self._log.read(start, max_bytes) if start < self._log.next else []

    def dropped_from(self, start: int) -> tuple[int, ...]:
        """A zero for each record that a disk has spoiled, from number `start` on."""
        return damaged_from(self._log, start)

    def sync(self) -> int:
        """Puts everything on the disk, if there is one; returns the first number that may not be there."""
        return self._log.sync() if self.is_durable else self._log.next

    def mark_synced(self, before: int) -> bool:
        """Notes how far the disk is, which the trainer may know; returns whether a worker has to."""
        self.synced = before
        return self.is_durable and self._mark_durable(before)

    def _mark_durable(self, before: int) -> bool:
        """Marks records before that number as durable; returns whether a worker has to know."""
        is_news = False
        while self._unsafe and self._unsafe[0][0] < before:
            _, position, stop = self._unsafe.popleft()
            position.durable = max(position.durable, stop)
            is_news = True
        return is_news

    def forget(self, before: int) -> bool:
        """Lets go of records before that number, which are durable with the trainer; as `mark_synced`."""
        if before <= self._forgettable:
            return False
        self._forgettable = min(before, self._log.next)
        if time.monotonic() - self._released_at > RELEASE_INTERVAL_S:
            self._try_release()
        return self._mark_durable(self._forgettable)

    def _try_release(self) -> None:
        """Gives room back if the disk takes the note of it; whoever had records forgotten cannot help it."""
        try:
            self._release()
        except StorageError as error:
            self._released_at = time.monotonic()
            logger.warning("the spool cannot give room back yet: %s", error)

    def _release(self) -> None:
        """Gives room back, after the part of the ledger that goes with it is noted."""
        # Records first: a note must never know of more than the log has after a power cut.
        self.sync()
        note = {"identity": self.identity, "ledger": self.ledger.to_json(), "next": self._log.next}
        self._log.note(note, forget=self._forgettable)
        self._shares.forget(self._forgettable)
        self._released_at = time.monotonic()

    def close(self) -> None:
        """Writes the ledger and closes the log."""
        self._release()
        self._log.close()


def _checked(name: str, parcel: memoryview, is_strict: bool) -> int:
    """How many samples a parcel says it holds.

    Raises:
        ParcelError: It is none, is larger than what can go on from here, or holds somebody else's samples.
    """
    if len(parcel) > MAX_PARCEL_BYTES:
        raise ParcelError(f"a parcel must be at most {MAX_PARCEL_BYTES:,} bytes, got {len(parcel):,}")
    n_samples, _, workers = summary(parcel)
    if is_strict:
        check_own(name, workers)
    return n_samples


def enter(position: Position, record: Record) -> None:
    """Notes in a position that a record has come."""
    position.lost += max(0, record.number - position.expected)
    position.expected = max(position.expected, record.stop)
    if record.parcel is None:
        position.skipped += record.samples
    else:
        position.parcels += 1
        position.samples += record.samples


class SpoolSource:
    """A spool as what a `Sender` sends to the trainer.

    Args:
        spool: What is sent.
        forget: Called with the number before which the trainer needs nothing any more.
    """

    name = "spool"

    def __init__(self, spool: Spool, forget: Callable[[int], None]) -> None:
        self._spool = spool
        self._forget = forget

    @property
    def epoch(self) -> int:
        """See `Source`."""
        return self._spool.identity

    @property
    def settled(self) -> int:
        """See `Source`."""
        return self._spool.first

    @property
    def next(self) -> int:
        """See `Source`."""
        return self._spool.next

    def read(self, start: int, max_bytes: int) -> list[bytes]:
        """See `Source`."""
        return self._spool.read(start, max_bytes)

    def dropped_from(self, start: int) -> tuple[int, ...]:
        """See `Source`."""
        return self._spool.dropped_from(start)

    def settle(self, durable: int) -> None:
        """See `Source`."""
        self._forget(durable)

    def note_drops(self, samples: int) -> None:
        """See `Source`."""

    def begin_epoch(self) -> None:
        """See `Source`.

        Raises:
            ProtocolError: Always: a trainer cannot know more than the spool.
        """
        raise ProtocolError("the trainer expects records that this spool never had; give it its own server")
