"""Hub: what a server does with its connections, whatever carries them.

    samples   worker  --> parcels --> spool          one a worker, see `listening.Seat`
    policies  worker  <-- the newest policy          whenever there is a newer one
    feed      trainer <-- spool                      one
    publish   trainer --> policies
    status    anyone  <-- a report

Nothing that a peer sends is executed, and nothing of it is decoded here but headers. Who breaks the protocol
is told so and hung up on; nobody else notices. See `tmrl.networking.guard` for who says too much, and
`tmrl.networking.shares` for who sends too much. Everything runs in one event loop, so nothing needs a
lock; only the disk is synced, and given policies, in another thread.
"""

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tmrl.errors import LineLostError, ParcelError, ProtocolError, RefusedError, StorageError
from tmrl.networking.delivery import COUNTS, Position, Sender
from tmrl.networking.guard import PARCELS_PER_FRAME, Complaints, Doors, Paced
from tmrl.networking.listening import Seat, first_message, linger, until_lost
from tmrl.networking.messages import (
    VERSION,
    Ack,
    Ask,
    Hello,
    Nack,
    Policy,
    Put,
    Refuse,
    Report,
    Skip,
    Subscribe,
    Welcome,
    Wish,
    from_frame,
    to_frame,
)
from tmrl.networking.policy_store import PolicyStore
from tmrl.networking.report import ServerReport, SpoolReport, TrainerReport, WorkerReport
from tmrl.networking.spool import Spool, SpoolSource
from tmrl.networking.tasks import either
from tmrl.networking.transport import Connection, Peer, Service
from tmrl.waiting import Wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
"""A peer that has said nothing for so long is hung up on."""
HANG_UP_S = 1.0
"""How long a peer may take to hear why; it may be half gone, and take nothing any more."""
SYNC_INTERVAL_S = 0.05
"""From one sync of the disk to the next, so that many parcels share one."""
BYTES_AT_ONCE = 1 << 20
"""Of parcels in one Put to the trainer."""
MAX_WORKERS = 4096
MAX_REASON = 1000
"""Characters of why a peer is refused."""
RATE_WINDOW_S = 10.0


class WorkerLink:
    """What the hub knows of one worker.

    Attributes:
        seat: Its place.
        policy_version: The newest policy it was sent, or said it has.
        backlog: Parcels that waited behind the newest Put.
        seen_at: When it was heard last, by the monotonic clock: the other may be set back.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.seat = Seat(f"worker named {name!r}", "give each worker a name of its own")
        self.policy_version = 0
        self.backlog = 0
        self.seen_at = time.monotonic()
        self.changed = asyncio.Event()
        self._history: deque[tuple[float, int]] = deque()

    @property
    def connection(self) -> Connection | None:
        """Its open line, or None."""
        return self.seat.connection("samples")

    def note(self, samples: int) -> None:
        """Notes that it was heard, and how many samples it has sent in all."""
        self.seen_at = now = time.monotonic()
        self._history.append((now, samples))
        while len(self._history) > 2 and now - self._history[1][0] > RATE_WINDOW_S:
            self._history.popleft()

    @property
    def samples_per_s(self) -> float:
        """Over about the last ten seconds."""
        if not self._history:
            return 0.0
        (began_at, before), (_, after) = self._history[0], self._history[-1]
        elapsed_s = time.monotonic() - began_at
        return (after - before) / elapsed_s if elapsed_s > 0 else 0.0

    def report(self, now: float, position: Position | None) -> WorkerReport:
        """How it stands, and how far its samples have come."""
        return WorkerReport(
            name=self.name,
            is_connected=self.connection is not None,
            address=None if self.connection is None else self.connection.peer.address,
            seen_s=now - self.seen_at,
            samples_per_s=self.samples_per_s,
            backlog=self.backlog,
            policy_version=self.policy_version,
            **{count: 0 if position is None else getattr(position, count) for count in COUNTS},
        )


class Hub:
    """Serves the connections of a server.

    Args:
        spool: Holds the parcels; the hub's from now on.
        policies: Holds the newest policy.
        window: Most Puts that a worker may have in flight.
        max_workers: Most workers to know.

    Attributes:
        spool: As given.
    """

    def __init__(
        self, spool: Spool, policies: PolicyStore, window: int = 8, max_workers: int = MAX_WORKERS
    ) -> None:
        self.spool = spool
        self._policies = policies
        self._window = window
        self._max_workers = max_workers
        self._workers: dict[str, WorkerLink] = {}
        self._wishes: Any = policies.wishes
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._trainer = Seat("trainer", "end one of them, or give each a server of its own")
        self._trainer_seen_at: float | None = None
        self._syncer: asyncio.Task[None] | None = None
        self._unsynced = asyncio.Event()
        self._failure: Exception | None = None
        self._doors, self._complaints = Doors(), Complaints(max_workers)
        self._services: dict[Service, Callable[[Paced], Awaitable[None]]] = {
            "samples": self._serve_samples,
            "policies": self._serve_policies,
            "feed": self._serve_feed,
            "publish": self._serve_publish,
            "status": self._serve_status,
        }
        for name in spool.ledger.newest():
            self._worker(name)

    async def serve(self, service: Service, connection: Connection) -> None:
        """Serves one connection until it ends."""
        if self._syncer is None:
            self._syncer = asyncio.ensure_future(self._sync_for_ever())
        reason, is_final = "", False
        try:
            with self._doors.counted(connection.peer):
                await self._services[service](Paced(connection))
        except LineLostError:
            return
        except (RefusedError, ParcelError) as error:  # a parcel would be the same again
            reason, is_final = str(error), True
        except ProtocolError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"nothing was said for {HELLO_TIMEOUT_S:g} s"
        except OSError as error:
            reason = f"the server cannot keep what it gets: {error}"
        except Exception:
            logger.exception("a connection for %s of %s failed", service, connection.peer.address)
            reason = "the server failed; its log says how"
        if reason:
            await self._hang_up(connection, reason, is_final)
            await linger(connection, HANG_UP_S)

    async def _hang_up(self, connection: Connection, reason: str, is_final: bool) -> None:
        reason = "".join(c if c.isprintable() else " " for c in reason[:MAX_REASON])
        who = connection.peer.name or connection.peer.address.rsplit(":", 1)[0]
        if self._complaints.is_news(who, reason):
            logger.warning("%s is refused: %s; this is said once", who, reason)
        with suppress(LineLostError, TimeoutError):
            async with asyncio.timeout(HANG_UP_S):
                await connection.send(to_frame(Refuse(reason, is_final)))

    # Workers.

    def _worker(self, name: str) -> WorkerLink:
        if name not in self._workers:
            if len(self._workers) >= self._max_workers:
                raise RefusedError(f"the server knows {self._max_workers} workers, which is the most it may")
            self._workers[name] = WorkerLink(name)
        return self._workers[name]

    async def _serve_samples(self, connection: Paced) -> None:
        hello = await first_message(connection, Hello, HELLO_TIMEOUT_S)
        if hello.version != VERSION:
            raise RefusedError(f"the server speaks version {VERSION} of the protocol, got {hello.version}")
        _check_peer(connection.peer, "worker", hello.name)
        worker = self._worker(hello.name)
        await worker.seat.hold("samples", connection, lambda: self._take_samples(connection, worker, hello))

    async def _take_samples(self, connection: Paced, worker: WorkerLink, hello: Hello) -> None:
        worker.changed = asyncio.Event()
        position = self.spool.ledger.greet(hello.name, hello.epoch, hello.first)
        worker.note(position.samples)
        welcome = Welcome(position.expected, self._window, self._wishes)
        await connection.send(to_frame(welcome))
        nacks: deque[Nack] = deque()
        await either(
            self._hear_worker(connection, worker, position, nacks),
            self._tell(connection, worker, position, nacks, welcome.wishes),
        )

    async def _hear_worker(
        self, connection: Paced, worker: WorkerLink, position: Position, nacks: deque[Nack]
    ) -> None:
        while True:
            message = from_frame(await connection.receive())
            if self._failure is not None:
                raise StorageError(str(self._failure)) from self._failure
            if isinstance(message, Put):
                await connection.spend(len(message.sizes) / PARCELS_PER_FRAME)
                await self._await_room(worker.name, message)
                is_strict = connection.peer.name is not None
                nack = self.spool.take(worker.name, position, message, is_strict)
                worker.backlog = message.backlog
            elif isinstance(message, Skip):
                nack = self.spool.skip(worker.name, position, message)
            else:
                raise ProtocolError(f"a worker must send Put or Skip, got {type(message).__name__}")
            if nack is not None:
                nacks.append(nack)
            worker.note(position.samples)
            worker.changed.set()
            self._note_arrival()

    def _note_arrival(self) -> None:
        """Lets what came go on to the trainer: at once from memory, from a disk when that is synced."""
        if self.spool.is_durable:
            self._unsynced.set()
        else:
            self.spool.mark_synced(self.spool.next)
            self._arrived.set()

    async def _await_room(self, name: str, put: Put) -> None:
        """Lets a worker wait while the spool, or its share, is full; its outbox does what it is told to."""
        wait = Wait(f"room in the spool, {self.spool.max_bytes:,} bytes")
        while not self.spool.has_room(name, put):
            self._room.clear()
            try:
                async with asyncio.timeout(wait.next_s()):
                    await self._room.wait()
            except TimeoutError:
                wait.check(self._whom)

    def _whom(self) -> str:
        if self._trainer.connection("feed") is not None:
            return "the trainer, which is connected and does not take more"
        if self._trainer_seen_at is None:
            return "a trainer, none of which has come yet"
        return f"the trainer, which was seen last {time.monotonic() - self._trainer_seen_at:.0f} s ago"

    async def _tell(
        self,
        connection: Connection,
        worker: WorkerLink,
        position: Position,
        nacks: deque[Nack],
        wishes: Any,
    ) -> None:
        """Tells a worker how far it has come, whenever that has changed, and what else is wished of it."""
        # The first time in any case: what was told before the last connection was lost may not have arrived.
        told, changed = None, worker.changed
        changed.set()
        while True:
            await changed.wait()
            changed.clear()
            if wishes != self._wishes:
                wishes = self._wishes
                await connection.send(to_frame(Wish(wishes)))
            if nacks:
                nacks.clear()
                await connection.send(to_frame(Nack(position.expected)))
            if told != position.stands:
                told = position.stands
                await connection.send(to_frame(told))

    async def _sync_for_ever(self) -> None:
        """Syncs the spool whenever something came, and then tells the workers what is durable."""
        while True:
            await self._unsynced.wait()
            self._unsynced.clear()
            try:
                safe = await asyncio.to_thread(self.spool.sync)
            except Exception as error:
                # What the disk lost cannot be known from here; the workers have it still.
                self._failure = error
                logger.critical(
                    "nothing more is taken until this server is started again: %s", error, exc_info=True
                )
                return
            if self.spool.mark_synced(safe):
                self._tell_all()
            self._arrived.set()
            await asyncio.sleep(SYNC_INTERVAL_S)

    def _tell_all(self) -> None:
        for worker in self._workers.values():
            worker.changed.set()

    async def _serve_policies(self, connection: Paced) -> None:
        request = await first_message(connection, Subscribe, HELLO_TIMEOUT_S)
        _check_peer(connection.peer, "worker", request.name)
        worker = self._worker(request.name)
        known = request.version, request.digest
        await worker.seat.hold(
            "policies",
            connection,
            lambda: either(self._send_policies(connection, worker, known), until_lost(connection)),
        )

    async def _send_policies(
        self, connection: Connection, worker: WorkerLink, known: tuple[int, int]
    ) -> None:
        while True:
            worker.policy_version = known[0]
            known = await self._policies.newer(known)
            await connection.send(self._policies.frame)

    # The trainer.

    async def _serve_feed(self, connection: Paced) -> None:
        _check_peer(connection.peer, "trainer", None)
        await self._trainer.hold("feed", connection, lambda: self._feed_trainer(connection))

    async def _feed_trainer(self, connection: Paced) -> None:
        self._arrived = asyncio.Event()
        sender = Sender(SpoolSource(self.spool, self._forget))
        await connection.send(to_frame(sender.hello()))
        welcome = await first_message(connection, Welcome, HELLO_TIMEOUT_S)
        sender.welcome(welcome)
        await self._wish(welcome.wishes)
        await either(self._hear_trainer(connection, sender), self._feed(connection, sender))

    async def _feed(self, connection: Connection, sender: Sender) -> None:
        arrived = self._arrived
        while True:
            message = sender.next_message(BYTES_AT_ONCE, self.spool.synced)
            if message is None:
                await arrived.wait()
                arrived.clear()
            else:
                await connection.send(to_frame(*message))

    async def _hear_trainer(self, connection: Connection, sender: Sender) -> None:
        while True:
            message = from_frame(await connection.receive())
            self._trainer_seen_at = time.monotonic()
            if isinstance(message, Wish):
                await self._wish(message.wishes)
            elif isinstance(message, Ack | Nack):
                sender.hear(message)
            else:
                raise ProtocolError(f"a trainer must send Ack, Nack or Wish, got {type(message).__name__}")
            self._arrived.set()

    def _forget(self, before: int) -> None:
        if self.spool.forget(before):
            self._tell_all()
        self._room.set()

    async def _wish(self, wishes: Any) -> None:
        self._trainer_seen_at = time.monotonic()
        if wishes != self._wishes:
            await self._policies.keep_wishes(wishes)
            self._wishes = wishes
            self._tell_all()

    async def _serve_publish(self, connection: Paced) -> None:
        _check_peer(connection.peer, "trainer", None)
        await self._trainer.hold("publish", connection, lambda: self._take_policies(connection))

    async def _take_policies(self, connection: Paced) -> None:
        while True:
            message = from_frame(await connection.receive())
            if not isinstance(message, Policy):
                raise ProtocolError(f"a trainer must publish a Policy, got {type(message).__name__}")
            version = await self._policies.keep(message)
            await connection.send(to_frame(Ack(version, version)))

    # Reports.

    async def _serve_status(self, connection: Paced) -> None:
        await first_message(connection, Ask, HELLO_TIMEOUT_S)
        await connection.send(to_frame(Report(self.report().to_bytes())))

    def report(self) -> ServerReport:
        """How everything stands."""
        now, totals = time.monotonic(), self.spool.ledger.totals()
        seen_s = None if self._trainer_seen_at is None else now - self._trainer_seen_at
        spool = self.spool
        return ServerReport(
            TrainerReport(self._trainer.connection("feed") is not None, seen_s),
            self._policies.version,
            SpoolReport(spool.next - spool.first, spool.n_bytes, spool.max_bytes, spool.is_durable),
            tuple(link.report(now, totals.get(link.name)) for link in self._workers.values()),
        )

    async def close(self) -> None:
        """Puts what came on the disk, and closes the spool."""
        if self._syncer is not None:
            self._syncer.cancel()
            await asyncio.gather(self._syncer, return_exceptions=True)
        await self._policies.close()
        self.spool.close()


def _check_peer(peer: Peer, role: str, name: str | None) -> None:
    """Checks what a certificate vouches for; without certificates the transport has let only loopback in.

    Raises:
        RefusedError: The peer is somebody else.
    """
    if peer.role is not None and peer.role != role:
        raise RefusedError(
            f"this needs the certificate of a {role}, got that of the {peer.role} {peer.name!r}"
        )
    if name is not None and peer.name is not None and peer.name != name:
        raise RefusedError(f"the certificate is that of {peer.name!r}, and not of {name!r}")
    if name is not None and not 0 < len(name) <= 64:
        raise RefusedError(f"a worker's name must have 1 to 64 characters, got {len(name)}")
