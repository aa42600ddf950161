"""Delivery: parcels get across exactly once, or are counted as dropped; nothing here knows a network.

An `Outbox` keeps a sender's parcels, numbered without holes, until the other end says that they are durable.
A `Sender` is the sending half of one connection: it says what to send next, and hears what came back. A
`Ledger` is the receiving half: it knows, for every sender and every life of its outbox, which number comes
next, and so tells a new parcel from a duplicate and from a gap.

    put --> [ settled | dropped | in flight | waiting ]        numbers grow to the right
                      ^ log.first           ^ Sender's next

An *epoch* is one life of an outbox. It changes when the outbox is new, or when the other end knows more of it
than it does itself, as after a power cut that took its newest parcels; numbers would otherwise be used twice.
"""

import logging
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from tmrl.errors import ProtocolError, StorageError
from tmrl.networking.contents import Contents, content_of
from tmrl.networking.drops import Drops
from tmrl.networking.messages import MAX_NUMBERS, Ack, Hello, Nack, Put, Skip, Welcome
from tmrl.networking.record_log import RecordLog, damaged_from
from tmrl.networking.reserve import is_of_full_disk
from tmrl.transition import new_life
from tmrl.waiting import Wait

logger = logging.getLogger(__name__)

WhenFull = Literal["block", "drop"]
EPOCHS_KEPT = 8
"""Lives of one outbox that a ledger remembers."""


class Outbox:
    """Parcels on their way, kept until they are known to be durable at the other end.

    Thread-safe: a worker puts while a connection reads.

    Args:
        name: Who sends.
        log: Where the parcels are kept; the outbox's from now on.
        is_durable: Whether the log outlives the process.
        when_full: Whether `put` waits for room, as suits a simulator, or drops the oldest episodes, as suits
            a real-time environment, whose steps must not be delayed.
        wait_limit_s: Longest wait for room.

    Attributes:
        dropped_samples: Samples dropped in this epoch, those included that turn out to have arrived before.
        noted_drops: Samples that the other end has noted as dropped.
    """

    def __init__(
        self,
        name: str,
        log: RecordLog,
        is_durable: bool = False,
        when_full: WhenFull = "block",
        wait_limit_s: float = float("inf"),
    ) -> None:
        self._name = name
        self._log = log
        self._is_durable = is_durable
        self._wait_limit_s = wait_limit_s
        self._changed = threading.Condition()
        self._is_closed = False
        self._failure: Exception | None = None
        noted = log.noted
        self._epoch = int(noted.get("epoch", 0)) or new_life()
        self._sent = log.next  # for all that is known of an earlier process
        self.noted_drops = 0
        drops = Drops(int(noted.get("settled", log.first)), noted.get("dropped", ()))
        is_settled = drops.stop < log.first  # since it was noted
        self._keep(Drops(log.first) if is_settled else drops, int(noted.get("dropped_samples", 0)))
        self._contents = Contents(log, log.first) if when_full == "drop" else None

    @property
    def name(self) -> str:
        """Who sends."""
        return self._name

    @property
    def is_durable(self) -> bool:
        """Whether the parcels outlive the process."""
        return self._is_durable

    @property
    def epoch(self) -> int:
        """This life of the outbox: a random number, as clocks may be set back."""
        return self._epoch

    @property
    def settled(self) -> int:
        """Number of the oldest parcel that is not known to be durable."""
        return self._drops.first

    @property
    def first(self) -> int:
        """Number of the oldest parcel that is still there."""
        return self._drops.stop

    @property
    def next(self) -> int:
        """Number of the parcel that is put next."""
        return self._log.next

    @property
    def n_bytes(self) -> int:
        """Bytes that wait, or are not known to be durable."""
        return self._log.n_bytes

    def put(self, parts: Sequence[bytes | memoryview]) -> int:
        """Takes a parcel; once this returns it survives what the log survives.

        Args:
            parts: The parcel's bytes, in parts.

        Returns:
            Its number.

        Raises:
            StalledError: There was no room for `wait_limit_s`.
            StorageError: The disk fails; or it is full, and nothing may be dropped, or all was; or the parcel
                is larger than the outbox.
            ValueError: The outbox is closed.
        """
        size = sum(map(len, parts))
        with self._changed:
            self._make_room(size)
            if self._contents is None:
                return self._log.append(parts)
            content = content_of(parts)
            number = self._append(parts, size, self._contents)
            self._contents.add(content)
            return number

    def _append(self, parts: Sequence[bytes | memoryview], size: int, contents: Contents) -> int:
        """Appends a parcel, dropping others where the disk has less room than the outbox may take."""
        while True:
            try:
                return self._log.append(parts)
            except StorageError as error:
                if self.first == self._log.next or not is_of_full_disk(error):
                    raise
            held = self._log.n_bytes
            self._drop_oldest(self._log.max_bytes - held + max(size, held // 8), contents)

    def _make_room(self, size: int) -> None:
        wait = Wait(f"room in the outbox of {self.name!r}, {self._log.max_bytes:,} bytes", self._wait_limit_s)
        while not self._log.has_room(size) and self.first < self._log.next:
            if self._failure is not None:
                raise self._failure
            if self._is_closed:
                raise ValueError(f"the outbox of {self.name!r} is closed")
            if self._contents is not None:
                self._drop_oldest(size, self._contents)
            else:
                self._changed.wait(wait.next_s())
                wait.check(self._who)
        if self._is_closed:
            raise ValueError(f"the outbox of {self.name!r} is closed")

    def fail(self, failure: Exception) -> None:
        """Raises this where somebody waits for room, as none will be made any more."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _who(self) -> str:
        return f"the receiver, which has {self.settled:,} of {self._log.next:,} parcels safe"

    def _drop_oldest(self, size: int, contents: Contents) -> None:
        """Drops the oldest parcels until there is room for `size` bytes."""
        first, is_first = self.first, not self.dropped_samples
        counts = contents.samples(self._in_the_way(size, contents))
        self._keep(self._drops.plus(counts, self._sent), self.dropped_samples + sum(counts))
        contents.forget(self.first)
        if is_first:
            logger.warning(
                "the outbox of %r is full: parcels %d to %d, %d samples, are dropped, the oldest first; "
                "see why the receiver is away, or give the outbox more than max_bytes=%d",
                *(self.name, first, self.first - 1, sum(counts), self._log.max_bytes),
            )

    def _in_the_way(self, size: int, contents: Contents) -> int:
        """Number after the oldest parcels, which have to go for `size` bytes.

        They are whole episodes, as far as parcels know, unless the rest of the last one is much.
        """
        after = range(self.first + 1, self._log.next)
        stop = self.first + 1 + bisect_left(after, True, key=lambda number: self._log.has_room(size, number))
        end, much = contents.episode_stop(stop - 1), size + self._log.n_bytes // 8
        return stop if end is None or (end > stop and self._log.has_room(much, end - 1)) else end

    def read(self, start: int, max_bytes: int) -> list[bytes]:
        """Parcels from number `start` on, at least one if there is one."""
        with self._changed:
            parcels = self._log.read(start, max_bytes) if start < self._log.next else []
            self._sent = max(self._sent, start + len(parcels))
            return parcels

    def dropped_from(self, start: int) -> tuple[int, ...]:
        """Samples in each of the parcels that will not come, from number `start` on; 0 for damaged ones."""
        with self._changed:
            counts = self._drops.counts_from(start) or damaged_from(self._log, start)
            self._sent = max(self._sent, start + len(counts))
            return counts

    def sync(self) -> int:
        """Puts everything on the disk, if there is one; returns the first number that may not be there."""
        return self._log.sync() if self.is_durable else self._log.next

    def settle(self, durable: int) -> None:
        """Forgets parcels before number `durable`, which are safe at the other end."""
        with self._changed:
            if not self.settled < durable <= self._log.next:
                return
            self._drops.settle(durable)
            self._log.forget(self.first)
            if self._contents is not None:
                self._contents.forget(self.first)
            self._changed.notify_all()

    def note_drops(self, samples: int) -> None:
        """Notes how many samples the other end has noted as dropped."""
        self.noted_drops = samples

    def begin_epoch(self) -> None:
        """Begins another life, in which what is still there is sent anew."""
        with self._changed:
            self._epoch = new_life()
            self._keep(Drops(self.first), 0)

    def _keep(self, drops: Drops, dropped_samples: int) -> None:
        """Notes what is dropped, and gives it up, in one step: a kill leaves both or neither."""
        self._log.note(
            {
                "epoch": self.epoch,
                "settled": drops.first,
                "dropped": drops.to_json(),
                "dropped_samples": dropped_samples,
            },
            forget=drops.stop,
        )
        self._drops, self.dropped_samples = drops, dropped_samples

    def close(self) -> None:
        """Closes the log; on a disk, what is left is sent when the outbox is opened again."""
        with self._changed:
            if not self._is_closed:
                self._is_closed = True
                self._keep(self._drops, self.dropped_samples)
                self._log.close()
                self._changed.notify_all()


class Source(Protocol):
    """What a `Sender` sends: an `Outbox`, or the spool of a server towards its trainer."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def epoch(self) -> int: ...  # noqa: D102
    @property
    def settled(self) -> int: ...  # noqa: D102
    @property
    def next(self) -> int: ...  # noqa: D102
    def read(self, start: int, max_bytes: int) -> list[bytes]: ...  # noqa: D102
    def dropped_from(self, start: int) -> tuple[int, ...]: ...  # noqa: D102
    def settle(self, durable: int) -> None: ...  # noqa: D102
    def note_drops(self, samples: int) -> None: ...  # noqa: D102
    def begin_epoch(self) -> None: ...  # noqa: D102


class Sender:
    """The sending half of one connection.

    Args:
        outbox: What it sends.

    """

    def __init__(self, outbox: Source) -> None:
        self._outbox = outbox
        self._next = 0
        self._window = 0
        self._in_flight: deque[int] = deque()

    def hello(self) -> Hello:
        """What to say first."""
        return Hello(self._outbox.name, self._outbox.epoch, self._outbox.settled)

    @property
    def may_send(self) -> bool:
        """Whether there is something to send, and room in the window for it."""
        return len(self._in_flight) < self._window and self._next < self._outbox.next

    def welcome(self, welcome: Welcome) -> bool:
        """Hears the answer to the Hello.

        Returns:
            Whether to go on; False asks for another connection, as the outbox has begun a new epoch.
        """
        if welcome.expected > self._outbox.next:
            logger.warning(
                "%r: the receiver expects parcel %d, but the outbox has only come to %d: it has lost its "
                "newest parcels, which have arrived, and begins a new epoch",
                *(self._outbox.name, welcome.expected, self._outbox.next),
            )
            self._outbox.begin_epoch()
            return False
        self._next = max(welcome.expected, self._outbox.settled)
        self._window = max(1, welcome.window)
        return True

    def hear(self, message: Ack | Nack) -> None:
        """Hears how far the receiver has come.

        Raises:
            ProtocolError: It claims to have what was never sent.
        """
        if isinstance(message, Nack):
            self._check(message.expected)
            self._next = max(message.expected, self._outbox.settled)
            self._in_flight.clear()
            return
        self._check(max(message.received, message.durable))
        while self._in_flight and self._in_flight[0] <= message.received:
            self._in_flight.popleft()
        self._outbox.note_drops(message.skipped)
        self._outbox.settle(message.durable)

    def _check(self, number: int) -> None:
        if number > self._outbox.next:
            raise ProtocolError(f"parcel {number} was acknowledged, but only {self._outbox.next} were put")

    def next_message(self, max_bytes: int, before: int) -> tuple[Put | Skip, Sequence[bytes]] | None:
        """What to send now, with the parts of its body; None if nothing may be sent.

        Args:
            max_bytes: Most bytes of parcels; a single larger one is sent all the same.
            before: Parcels from this number on are not on the disk yet. They are not told of: after a power
                cut their numbers would be those of others.
        """
        self._next = max(self._next, self._outbox.settled)  # a receiver may say it has what was never sent
        if not self.may_send or self._next >= before:
            return None
        skipped = self._outbox.dropped_from(self._next)[:MAX_NUMBERS]
        if skipped:
            message = Skip(self._next, skipped)
            parcels: list[bytes] = []
        else:
            try:
                parcels = self._outbox.read(self._next, max_bytes)[: min(MAX_NUMBERS, before - self._next)]
            except LookupError:  # dropped between the two lines above
                return self.next_message(max_bytes, before)
            backlog = self._outbox.next - self._next - len(parcels)
            message = Put(self._next, tuple(map(len, parcels)), backlog)
        self._next = message.stop
        self._in_flight.append(message.stop)
        return message, parcels


COUNTS = ("parcels", "samples", "duplicates", "skipped", "lost")
"""The fields of a `Position` that add up over the lives of an outbox."""


@dataclass(slots=True)
class Position:
    """How far one life of one outbox has come."""

    epoch: int
    """Of the outbox."""
    expected: int
    """Number of the parcel that comes next."""
    durable: int
    """Every parcel before this number is safe."""
    parcels: int = 0
    """Parcels taken."""
    samples: int = 0
    """Samples in them."""
    duplicates: int = 0
    """Parcels that had come before."""
    skipped: int = 0
    """Samples that the sender dropped on purpose."""
    lost: int = 0
    """Parcels that neither came nor were skipped; 0 unless a disk lost what was durable."""

    @property
    def stands(self) -> Ack:
        """As a message."""
        return Ack(self.expected, self.durable, self.skipped)


class Ledger:
    """How far each sender has come; not thread-safe."""

    def __init__(self) -> None:
        self._positions: dict[str, dict[int, Position]] = {}

    def greet(self, name: str, epoch: int, first: int) -> Position:
        """The position of a sender that has what begins with number `first`; a new one if it is unknown."""
        position = self.position(name, epoch, first)
        if position.expected < first:
            logger.error(
                "%r: parcels %d to %d had been acknowledged as durable and are not here: a disk has lost "
                "them; what comes next is taken",
                *(name, position.expected, first - 1),
            )
            position.lost += first - position.expected
            position.expected = position.durable = first
        return position

    def position(self, name: str, epoch: int, first: int) -> Position:
        """The position of a sender, one at number `first` if it is unknown."""
        epochs = self._positions.setdefault(name, {})
        if epoch not in epochs:
            epochs[epoch] = Position(epoch, first, first)
            while len(epochs) > EPOCHS_KEPT:
                del epochs[next(iter(epochs))]
        return epochs[epoch]

    def mark_durable(self) -> None:
        """Marks everything that has come as durable."""
        for epochs in self._positions.values():
            for position in epochs.values():
                position.durable = position.expected

    def newest(self) -> dict[str, Position]:
        """The newest position of each sender."""
        return {name: next(reversed(epochs.values())) for name, epochs in self._positions.items()}

    def totals(self) -> dict[str, Position]:
        """For each sender the newest position with the counts of all its epochs."""
        totals: dict[str, Position] = {}
        for name, epochs in self._positions.items():
            newest = next(reversed(epochs.values()))
            sums = {count: sum(getattr(position, count) for position in epochs.values()) for count in COUNTS}
            totals[name] = Position(newest.epoch, newest.expected, newest.durable, **sums)
        return totals

    def to_json(self) -> dict[str, Any]:
        """Everything, as what `json.dumps` takes."""
        return {
            name: [asdict(position) for position in epochs.values()]
            for name, epochs in self._positions.items()
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Ledger":
        """The ledger that `to_json` wrote."""
        ledger = cls()
        for name, positions in document.items():
            ledger._positions[name] = {entry["epoch"]: Position(**entry) for entry in positions}
        return ledger


def news_in(position: Position, put: Put) -> list[tuple[int, memoryview]] | None:
    """The parcels of a Put that are new to a position, with their numbers; duplicates are counted.

    Returns:
        None if the Put leaves out a number, and so must be refused.
    """
    if put.first > position.expected:
        return None
    n_known = min(position.expected, put.stop) - put.first
    position.duplicates += n_known
    return list(enumerate(put.parcels()[n_known:], put.first + n_known))
