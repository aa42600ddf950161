"""TrainerLine: a trainer's end of the line, the `SampleSource` of a training whose workers are elsewhere.

What the server's spool holds arrives in the background, in a queue that is bounded in bytes.
`retrieve_buffer` hands it to the training loop. The server may forget a parcel once the training says that it
is safe:

- with checkpoints, `commit()` after each, of what `state()` said when it was made: memory and watermark are
  of one moment, so that a trainer that was killed goes on where its checkpoint ends, with nothing lost and
  nothing twice;
- without, at the next `retrieve_buffer`, by when the loop has put it into the memory.
"""

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from concurrent.futures import Future

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.chunk_buffer import ChunkBuffer
from tmrl.errors import ParcelError, PolicyError, ProtocolError, RefusedError
from tmrl.networking import background
from tmrl.networking.delivery import Ledger
from tmrl.networking.guard import Complaints
from tmrl.networking.messages import (
    MAX_PARCEL_BYTES,
    VERSION,
    Ack,
    Hello,
    Nack,
    Put,
    Skip,
    Welcome,
    Wish,
    to_frame,
)
from tmrl.networking.parcel import decode
from tmrl.networking.policy_bytes import save_policy
from tmrl.networking.policy_store import MAX_VERSION, policy_message
from tmrl.networking.reconnect import hear, keep_connected
from tmrl.networking.spool import Record, enter, from_record
from tmrl.networking.tasks import either, end
from tmrl.networking.transport import Connection, Dialer
from tmrl.networking.wishes import wishes_of
from tmrl.training.source import newest_policy
from tmrl.transition import new_life
from tmrl.waiting import Wait

logger = logging.getLogger(__name__)

MAX_PEERS = 4096
"""Workers of which it is said that their parcels cannot be read."""
LAST_WORD_S = 1.0
"""How long `close` tries to tell the server what it may forget."""


@dataclass(frozen=True, slots=True)
class _Queued:
    """A record that waits for the loop."""

    spool: int
    """Identity of the spool that it came from."""
    number: int
    """Its own there."""
    n_bytes: int
    record: Record


class TrainerLine:
    """Receives samples from the workers of a server, and sends policies to them.

    Args:
        dialer: Dials the server; closed with the line.
        max_bytes: Most bytes of samples to hold until the loop retrieves them.
        window: Most Puts that the server may have in flight.
        wait_limit_s: How long `retrieve_buffer` may go on bringing nothing.

    Attributes:
        max_samples: See `Line`.
        received_samples: Samples handed to the loop.
        refused: Parcels that could not be read.
    """

    def __init__(
        self,
        dialer: Dialer,
        max_bytes: int = 256 << 20,
        window: int = 16,
        wait_limit_s: float = float("inf"),
    ) -> None:
        self._dialer = dialer
        self._max_bytes = max_bytes
        self._window = window
        self._wait_limit_s = wait_limit_s
        self._lock = threading.Lock()
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._spool = 0
        self._received = 0
        self._durable = 0
        self._ledger = Ledger()
        self._complaints = Complaints(MAX_PEERS)
        self._handed: tuple[int, int] = (0, 0)
        self._told: tuple[int, int] | None = None
        self._is_kept_elsewhere = False
        self._wishes: Any = None
        self._policy: bytes | None = None
        self._unsent = 0
        self._version = 0
        self._failure: Exception | None = None
        self._wait: Wait | None = None
        self._is_closed = False
        self.max_samples = float("inf")
        self.received_samples = 0
        self.refused = 0
        self._changed, self._has_policy = asyncio.Event(), asyncio.Event()
        self._tasks: list[Future[None]] = []

    def start(self) -> None:
        """Begins to receive; the first `retrieve_buffer` or `broadcast_model` does it too."""
        if not self._tasks:
            dialer, fail, life = self._dialer, self._give_up, new_life()
            self._tasks = [
                background.start(keep_connected(dialer, "feed", self._receive_all, fail, life)),
                background.start(keep_connected(dialer, "publish", self._publish_all, fail, life)),
            ]

    # The thread that trains.

    def attach(self, memory: Any) -> None:
        """Tells the workers, from now on, in what form this memory wants its samples.

        Policies are numbered on from those that acted in what the memory holds.
        """
        self._wishes = wishes_of(memory)
        newest = newest_policy(memory)
        if newest < MAX_VERSION // 2:  # as long as no worker has stamped what it liked
            with self._lock:
                self._version = max(self._version, newest)
        self.start()
        background.poke(self._changed)

    def retrieve_buffer(self) -> Buffer:
        """Everything that arrived since the last call.

        Raises:
            RefusedError: The server refuses this trainer.
            StalledError: Nothing came for `wait_limit_s`.
        """
        self.start()
        self._check()
        if not self._is_kept_elsewhere:
            self._commit(self._handed)
        with self._lock:
            records, self._queue = self._queue, deque()
            self._queued_bytes = 0
        # The queue is bounded, and nothing of it may be dropped.
        buffer, n_bytes, is_idle = ChunkBuffer(maxlen=sys.maxsize), 0, not records
        while records and n_bytes <= self._max_bytes and len(buffer) < max(1, self.max_samples):
            queued = records.popleft()
            n_bytes += self._take(buffer, queued)
            self._handed = (queued.spool, queued.number + 1)
        self._put_back(records)
        background.poke(self._changed)
        self.received_samples += len(buffer)
        self._watch(is_idle)
        return buffer

    def _put_back(self, records: "deque[_Queued]") -> None:
        """Keeps for the next call what would be too much for this one once it is decompressed."""
        with self._lock:
            self._queue.extendleft(reversed(records))
            self._queued_bytes = sum(queued.n_bytes for queued in self._queue)

    def _take(self, buffer: ChunkBuffer, queued: "_Queued") -> int:
        """Adds what a record holds; returns its bytes."""
        record = queued.record
        position = self._ledger.position(record.name, record.epoch, record.number)
        if record.stop <= position.expected:
            position.duplicates += 1
            return 0
        enter(position, record)
        if record.parcel is None:
            return 0
        try:
            arrived = decode(record.parcel)
            buffer += arrived
            buffer.parcels.append(arrived)
            rows = sum(part.chunk.rows.nbytes for part in arrived.parts if not isinstance(part, list))
            return max(rows, queued.n_bytes)
        except ParcelError as error:
            self.refused += 1
            reason = str(error)[:1000]
            if self._complaints.is_news(record.name, reason):
                logger.warning(
                    "a parcel of %r cannot be read and is left out: %s; this is said once",
                    *(record.name, reason),
                )
            return 0

    def _watch(self, is_idle: bool) -> None:
        if not is_idle:
            self._wait = None
        elif self._wait is None:
            self._wait = Wait("samples", self._wait_limit_s)
        else:
            self._wait.check(lambda: f"the workers, through {self._dialer.address}")

    def broadcast_model(self, actor: ActorModule) -> None:
        """Sends the policy as it is now; one that has not left yet is replaced.

        Raises:
            PolicyError: It would have to be pickled, or is too large for the line.
            RefusedError: The server refuses this trainer.
        """
        self.start()
        self._check()
        body = save_policy(actor)
        if len(body) > MAX_PARCEL_BYTES:
            raise PolicyError(f"a policy must be at most {MAX_PARCEL_BYTES:,} bytes, got {len(body):,}")
        with self._lock:
            self._policy, self._unsent = body, self._unsent + 1
        background.poke(self._has_policy)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; see the module. From now on only `commit` lets the server forget."""
        self._is_kept_elsewhere = True
        return {"handed": list(self._handed), "ledger": self._ledger.to_json()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where a checkpoint was made; before anything was retrieved.

        Raises:
            ValueError: Something was retrieved already.
        """
        if self._tasks:
            raise ValueError("restore must come before the line is used, but something was retrieved already")
        self._is_kept_elsewhere = True
        spool, number = state["handed"]
        self._handed = (int(spool), int(number))
        self._spool, self._received = self._handed
        self._durable = self._received
        self._ledger = Ledger.from_json(state["ledger"])

    def commit(self, state: dict[str, Any]) -> None:
        """Lets the server forget what was handed over when `state` was made."""
        spool, number = state["handed"]
        self._commit((int(spool), int(number)))

    def _commit(self, handed: tuple[int, int]) -> None:
        spool, number = handed
        if spool == self._spool and number > self._durable:
            self._durable = number
            background.poke(self._changed)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._is_closed:
            raise ValueError(f"the line to {self._dialer.address} is closed")

    def close(self) -> None:
        """Hangs up; the server keeps what was not handed over, or, with checkpoints, not committed."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._is_kept_elsewhere:
            self._commit(self._handed)
        background.run(self._hang_up())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The background.

    def _give_up(self, error: Exception) -> None:
        self._failure = error

    async def _receive_all(self, connection: Connection) -> None:
        hello = await hear(connection)
        if not isinstance(hello, Hello):
            raise ProtocolError(f"a server must begin with a Hello, got {type(hello).__name__}")
        if hello.version != VERSION:
            raise RefusedError(
                f"the server speaks version {hello.version} of the protocol, this is {VERSION}"
            )
        self._begin(hello)
        welcome = Welcome(self._received, self._window, self._wishes)
        await connection.send(to_frame(welcome))
        await either(self._hear_puts(connection), self._tell(connection, welcome.wishes))

    def _begin(self, hello: Hello) -> None:
        if hello.epoch != self._spool:
            self._spool, self._received, self._durable = hello.epoch, hello.first, hello.first
        elif hello.first > self._received:
            logger.error(
                "the server has forgotten records %d to %d, which a later checkpoint had than the one that "
                "this trainer goes on from; what comes next is taken",
                *(self._received, hello.first - 1),
            )
            self._received = self._durable = hello.first

    async def _hear_puts(self, connection: Connection) -> None:
        while True:
            message = await hear(connection)
            if not isinstance(message, Put | Skip):
                raise ProtocolError(f"a server must send Put or Skip, got {type(message).__name__}")
            if message.first > self._received:
                await connection.send(to_frame(Nack(self._received)))
                continue
            if isinstance(message, Skip):
                if message.stop > self._received:
                    logger.error("records %d to %d are damaged in the spool", message.first, message.stop - 1)
                    self._received = message.stop
                continue
            records = [
                _Queued(self._spool, number, len(data), from_record(bytes(data)))
                for number, data in enumerate(message.parcels(), message.first)
            ]
            arrived = [queued for queued in records if queued.number >= self._received]
            while self._queued_bytes > self._max_bytes:
                await asyncio.sleep(0.005)
            with self._lock:
                self._queue += arrived
                self._queued_bytes += sum(queued.n_bytes for queued in arrived)
                self._received = max(self._received, message.stop)
            self._changed.set()

    async def _tell(self, connection: Connection, wishes: Any) -> None:
        self._told = (0, 0)
        self._changed.set()
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if wishes != self._wishes:
                    wishes = self._wishes
                    await connection.send(to_frame(Wish(wishes)))
                stands = (self._received, self._durable)
                if self._told != stands:  # the first time in any case
                    await connection.send(to_frame(Ack(*stands)))
                    self._told = stands
        finally:
            self._told = None

    async def _hang_up(self) -> None:
        deadline = time.monotonic() + LAST_WORD_S
        while self._has_more_to_say() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await end(self._tasks)
        await self._dialer.close()

    def _has_more_to_say(self) -> bool:
        return self._told is not None and (self._told[1] < self._durable or self._unsent > 0)

    async def _publish_all(self, connection: Connection) -> None:
        # The newest in any case: this may be another server than the one that had it.
        self._has_policy.set()
        acks: asyncio.Queue[Ack] = asyncio.Queue()
        await either(self._publish(connection, acks), _hear_all(connection, acks))

    async def _publish(self, connection: Connection, acks: "asyncio.Queue[Ack]") -> None:
        while True:
            await self._has_policy.wait()
            self._has_policy.clear()
            with self._lock:
                body, count, known = self._policy, self._unsent, self._version
            if body is None:
                continue
            await connection.send(to_frame(policy_message(known + count, body)))
            ack = await acks.get()
            with self._lock:
                self._unsent -= count
                self._version = max(self._version, ack.received)


async def _hear_all(connection: Connection, heard: "asyncio.Queue[Ack]") -> None:
    while True:
        answer = await hear(connection)
        if not isinstance(answer, Ack):
            raise ProtocolError(f"a Policy must be answered with an Ack, got {type(answer).__name__}")
        if answer.received >= MAX_VERSION:
            raise ProtocolError(f"a policy must have a number below {MAX_VERSION:,}, got {answer.received:,}")
        heard.put_nowait(answer)
