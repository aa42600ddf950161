"""WorkerLine: a worker's end of the line, the `Sink` of a `RolloutWorker` whose trainer is elsewhere.

`send` encodes a Buffer and puts it into the outbox, and that is all that the thread of the worker ever waits
for, unless the outbox is full and was told to block. The rest happens in the background: parcels go out
together, about every second or quarter of a megabyte, at once when the worker waits for a policy; policies
come in on a connection of their own, the newest only.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from tmrl.actor import ActorModule
from tmrl.buffer import Buffer
from tmrl.errors import BadSampleError, LineLostError, ProtocolError, StorageError
from tmrl.networking import background
from tmrl.networking.delivery import Outbox, Sender
from tmrl.networking.messages import MAX_PARCEL_BYTES, Ack, Nack, Policy, Subscribe, Welcome, Wish, to_frame
from tmrl.networking.parcel import Encoder, Wishes
from tmrl.networking.policy_bytes import load_policy
from tmrl.networking.policy_store import is_whole
from tmrl.networking.reconnect import hear, keep_connected
from tmrl.networking.tasks import either, end
from tmrl.networking.transport import Connection, Dialer
from tmrl.sink import Received
from tmrl.transition import new_life
from tmrl.waiting import Wait

logger = logging.getLogger(__name__)

SYNC_INTERVAL_S = 1.0
"""From one sync of an outbox on disk to the next, while there is no server to send to."""

BYTES_AT_ONCE = 1 << 20
"""Of parcels in one message, if so many wait: each message has its price, for both ends and the way back."""


class WorkerLine:
    """Sends the Buffers of one worker to its trainer, and receives policies.

    Args:
        dialer: Dials the server; closed with the line.
        outbox: Keeps what is on its way; closed with the line.
        compress: Fields, or single leaves, to compress losslessly, as in `("obs",)`.
        batch_s: How long samples may wait for others to go with.
        batch_bytes: How many bytes do not wait.
        close_s: How long `close` waits for what is on its way.

    Attributes:
        outbox: As given.
    """

    def __init__(
        self,
        dialer: Dialer,
        outbox: Outbox,
        compress: Sequence[str] = (),
        batch_s: float = 1.0,
        batch_bytes: int = 256 << 10,
        close_s: float = 10.0,
    ) -> None:
        self.outbox = outbox
        self._dialer = dialer
        self._encoder = Encoder(compress=tuple(compress))
        self._batch_s = batch_s
        self._batch_bytes = batch_bytes
        self._put_bytes = max(batch_bytes, BYTES_AT_ONCE)
        self._close_s = close_s
        self._failure: Exception | None = None
        self._is_closed = False
        self._waiting_bytes = 0
        self._waiting_since: float | None = None
        self._is_hurried = False
        self._changed = threading.Condition()
        self._policy: Policy | None = None
        self._heard: tuple[int, int] = (0, 0)
        self._taken: tuple[int, int] = (0, 0)
        self._heard_at: float | None = None
        self._wake = asyncio.Event()
        life = new_life()
        self._tasks = [
            background.start(keep_connected(dialer, "samples", self._send_all, self._give_up, life)),
            background.start(keep_connected(dialer, "policies", self._hear_policies, self._give_up, life)),
        ]
        if outbox.is_durable:
            self._tasks.append(background.start(self._sync_for_ever()))

    @property
    def peer(self) -> str:
        """Who is at the other end."""
        seen = (
            "not heard yet"
            if self._heard_at is None
            else f"heard {time.monotonic() - self._heard_at:.0f} s ago"
        )
        return f"the trainer through {self._dialer.address}, {seen}"

    # The worker's thread.

    def send(self, buffer: Buffer) -> None:
        """Puts the samples and episodes of a Buffer into the outbox; they stay the caller's.

        Raises:
            RefusedError: The server refused this worker for good.
            StalledError: The outbox had no room for as long as it was told to wait.
            BadSampleError: A sample holds what cannot travel, and the message names it, or there are too
                many of them.
        """
        self._check()
        if not len(buffer) and not buffer.episodes:
            return
        parts = self._encoder.encode(buffer)
        size = sum(map(len, parts))
        if size > MAX_PARCEL_BYTES:
            raise BadSampleError(
                f"{len(buffer)} samples make a parcel of {size:,} bytes, and one may have "
                f"{MAX_PARCEL_BYTES:,}; send the Buffer more often; nothing was sent"
            )
        self.outbox.put(parts)
        with self._changed:
            self._waiting_bytes += size
            if self._waiting_since is None:
                self._waiting_since = time.monotonic()
        background.poke(self._wake)

    def receive(self, timeout_s: float, actor: ActorModule | None) -> Received:
        """Fetches the newest policy; see `Sink.receive`. Before it waits, it sends what waits to be sent.

        Raises:
            RefusedError: The server refused this worker for good.
            PolicyError: What came is no policy of the actor's class.
        """
        self._check()
        if timeout_s > 0:
            self._hurry()
            wait = Wait("a policy")
            deadline = time.monotonic() + timeout_s
            with self._changed:
                while self._policy is None and self._failure is None and time.monotonic() < deadline:
                    self._changed.wait(min(wait.next_s(), max(0.0, deadline - time.monotonic())))
                    wait.check(lambda: self.peer)
            self._check()
        with self._changed:
            policy, self._policy = self._policy, None
            if policy is None:
                return Received(0, None, self._taken[0])
            (version, digest), self._taken = self._taken, (policy.version, policy.digest)
        # A server that lost its spool counts anew.
        count = max(1, policy.version - version) if version else 1
        loaded = None if actor is None else load_policy(actor, policy.body)
        return Received(count, loaded, policy.version, is_again=policy.digest == digest)

    def flush(self, timeout_s: float) -> bool:
        """Waits until all that was sent is durable at the other end; returns whether it is."""
        self._hurry()
        wait, deadline = Wait("the last samples to be safe"), time.monotonic() + timeout_s
        with self._changed:
            while self.outbox.settled < self.outbox.next and self._failure is None:
                if time.monotonic() >= deadline:
                    return False
                self._changed.wait(min(0.1, deadline - time.monotonic()))
                wait.check(lambda: self.peer)
        return self.outbox.settled == self.outbox.next

    def _hurry(self) -> None:
        self._is_hurried = True
        background.poke(self._wake)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._is_closed:
            raise ValueError(f"the line to {self._dialer.address} is closed")

    def close(self) -> None:
        """Waits a little for what is on its way, and hangs up; an outbox on disk keeps what is left."""
        if self._is_closed:
            return
        if not self.flush(self._close_s):
            self._tell_what_is_left()
        self._is_closed = True
        background.run(self._hang_up())
        self.outbox.close()

    def _tell_what_is_left(self) -> None:
        box = self.outbox
        n_left = box.next - box.first
        logger.warning(
            "%s of %r may not be safe with the server yet; %s",
            *("1 parcel" if n_left == 1 else f"{n_left:,} parcels", box.name),
            "the outbox keeps what is left until a worker of this name comes back"
            if box.is_durable
            else "the outbox was in memory, and ends with this line",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The background.

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()
        self.outbox.fail(error)

    async def _send_all(self, connection: Connection) -> None:
        sender = Sender(self.outbox)
        await connection.send(to_frame(sender.hello()))
        welcome = await hear(connection)
        if not isinstance(welcome, Welcome):
            raise ProtocolError(f"a Hello must be answered with a Welcome, got {type(welcome).__name__}")
        self._encoder.wishes = _wishes(welcome.wishes)
        if not sender.welcome(welcome):
            raise LineLostError("the outbox begins another epoch")
        await either(self._send_parcels(connection, sender), self._hear_acks(connection, sender))

    async def _send_parcels(self, connection: Connection, sender: Sender) -> None:
        while True:
            await self._until_due(sender)
            with self._changed:
                self._waiting_bytes, self._waiting_since, self._is_hurried = 0, None, False
            before = await self._synced()
            while (message := sender.next_message(self._put_bytes, before)) is not None:
                await connection.send(to_frame(*message))

    async def _sync_for_ever(self) -> None:
        """Puts on the disk what waits there, also while nothing can be sent."""
        while True:
            await asyncio.sleep(SYNC_INTERVAL_S)
            try:
                await asyncio.to_thread(self.outbox.sync)
            except StorageError as error:
                self._give_up(error)
                return

    async def _synced(self) -> int:
        """Number of the first parcel that may not be told of yet; only a disk is worth a thread."""
        if self.outbox.is_durable:
            return await asyncio.to_thread(self.outbox.sync)
        return self.outbox.sync()

    async def _until_due(self, sender: Sender) -> None:
        """Waits until there is something to send, and enough of it, or for long enough."""
        while True:
            self._wake.clear()
            due_s = self._due_s() if sender.may_send else None
            if due_s is not None and due_s <= 0:
                return
            # Not wait_for: until Python 3.12 it loses a cancellation that comes together with what it awaits.
            with suppress(TimeoutError):
                async with asyncio.timeout(due_s):
                    await self._wake.wait()

    def _due_s(self) -> float:
        with self._changed:
            if self._is_hurried or self._waiting_bytes >= self._batch_bytes or self._waiting_since is None:
                return 0.0
            return self._waiting_since + self._batch_s - time.monotonic()

    async def _hear_acks(self, connection: Connection, sender: Sender) -> None:
        while True:
            message = await hear(connection)
            self._heard_at = time.monotonic()
            if isinstance(message, Wish):
                self._encoder.wishes = _wishes(message.wishes)
            elif isinstance(message, Ack | Nack):
                sender.hear(message)
                with self._changed:
                    self._changed.notify_all()
            else:
                raise ProtocolError(f"a server must send Ack, Nack or Wish, got {type(message).__name__}")
            self._wake.set()

    async def _hang_up(self) -> None:
        await end(self._tasks)
        await self._dialer.close()

    async def _hear_policies(self, connection: Connection) -> None:
        await connection.send(to_frame(Subscribe(self.outbox.name, *self._heard)))
        while True:
            policy = await hear(connection)
            if not isinstance(policy, Policy) or not is_whole(policy):
                raise ProtocolError("a server must send whole policies, got something else")
            self._heard_at = time.monotonic()
            with self._changed:
                self._policy, self._heard = policy, (policy.version, policy.digest)
                self._changed.notify_all()


def _wishes(document: Any) -> Wishes | None:
    return None if document is None else Wishes.from_json(document)
