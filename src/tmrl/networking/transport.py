"""Transport: what carries frames between two ends, and its twin within one process.

A `Dialer` opens a `Connection` to a service of a server; a `Listener` hands the connections that come in to
the server. That is all that the rest of the line knows of a network, and `tmrl.networking.grpc_transport` is
the only module that knows gRPC. The twin, `Loopback`, is for tests and for a trainer and a server in one
process: no socket, no TLS, and a connection can be cut where a test likes.

Everything here runs in the event loop of `tmrl.networking.background`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from tmrl.errors import LineLostError

Service = Literal["samples", "policies", "feed", "publish", "status"]
"""What a connection is for: a worker's parcels, its policies; a trainer's parcels, its policies; a report."""
SERVICES: tuple[Service, ...] = ("samples", "policies", "feed", "publish", "status")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as far as the transport can vouch for it."""

    address: str
    """For messages."""
    name: str | None = None
    """As its certificate says; None where there are no certificates."""
    role: str | None = None
    """`worker` or `trainer`, likewise."""
    life: int = 0
    """Random number by which its reconnections are told from another program; only its own word."""


class Connection(Protocol):
    """Two ways for frames, in order, until one end is gone."""

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        ...

    async def send(self, frame: bytes) -> None:
        """Sends a frame; returns when it has left, or waits in a bounded buffer.

        Raises:
            LineLostError: The connection is gone.
        """
        ...

    async def receive(self) -> bytes | bytearray:
        """Waits for the next frame.

        Raises:
            LineLostError: The connection is gone.
            ProtocolError: It is longer than this service has use for, or does not come as it was announced.
        """
        ...

    async def close(self) -> None:
        """Ends the connection; what was sent before still arrives, if the other end listens."""
        ...


class Dialer(Protocol):
    """Opens connections to one server."""

    @property
    def address(self) -> str:
        """Of the server, for messages."""
        ...

    async def dial(self, service: Service, life: int = 0) -> Connection:
        """Opens a connection.

        Args:
            service: What for.
            life: Of the line that this connection is part of, see `Peer`; 0 where it does not matter.

        Raises:
            LineLostError: The server cannot be reached.
            RefusedError: It can, and does not want this peer.
        """
        ...

    async def close(self) -> None:
        """Ends all of its connections."""
        ...


Serve = Callable[[Service, Connection], Awaitable[None]]
"""Serves one connection until it ends; the transport closes it afterwards."""


class Listener(Protocol):
    """Takes connections."""

    async def start(self, serve: Serve) -> None:
        """Begins to take them, each served in a task of its own."""
        ...

    async def stop(self) -> None:
        """Ends all connections and takes no more."""
        ...


FRAMES_IN_FLIGHT = 16
"""Frames that a connection within a process holds before `send` waits, as sockets do."""


class Loopback:
    """A transport within one process: both the `Dialer` and the `Listener`.

    Args:
        address: For messages.
        peer: Whom the server takes the dialer for.

    Attributes:
        address: As given.
        is_reachable: Whether `dial` finds a server; tests change it.
        cut_after: Frames, counted over all connections and both ways, after which every connection is cut;
            None cuts none. Tests change it.
    """

    def __init__(self, address: str = "this process", peer: Peer | None = None) -> None:
        self.address = address
        self.is_reachable = True
        self.cut_after: int | None = None
        self._peer = peer or Peer(address)
        self._serve: Serve | None = None
        self._wires: set[_Wire] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, serve: Serve) -> None:
        """Begins to take connections."""
        self._serve = serve

    async def dial(self, service: Service, life: int = 0) -> Connection:
        """Opens a connection to the server in this process."""
        if self._serve is None or not self.is_reachable:
            raise LineLostError(f"{self.address} cannot be reached: no server listens there")
        wire = _Wire()
        peer = replace(self._peer, life=life)
        ours, theirs = _End(self, wire, 0, Peer(self.address)), _End(self, wire, 1, peer)
        self._wires.add(wire)
        task = asyncio.ensure_future(self._served(self._serve, service, theirs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return ours

    async def _served(self, serve: Serve, service: Service, end: "_End") -> None:
        try:
            await serve(service, end)
        finally:
            await end.close()
            self._wires.discard(end.wire)

    async def cut(self) -> None:
        """Cuts every connection, as a dead network does: frames on their way are lost."""
        wires, self._wires = self._wires, set()
        for wire in wires:
            await wire.cut()

    async def count(self) -> None:
        """Notes that a frame is about to pass."""
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after < 0:
                self.cut_after = None
                await self.cut()

    async def stop(self) -> None:
        """Ends all connections; none is taken from now on."""
        self._serve = None
        await self.cut()
        for task in self._tasks:  # it may wait for something else than a frame
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Ends all connections."""
        await self.cut()


class _Wire:
    """What two ends within a process share: the frames on their way to either, and who has hung up."""

    def __init__(self) -> None:
        self.changed = asyncio.Condition()
        self.frames: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self.is_closed = [False, False]

    async def cut(self) -> None:
        async with self.changed:
            self.is_closed = [True, True]
            for frames in self.frames:
                frames.clear()
            self.changed.notify_all()


class _End:
    """One end of a connection within a process."""

    def __init__(self, line: Loopback, wire: _Wire, side: int, peer: Peer) -> None:
        self.peer = peer
        self.wire = wire
        self._line = line
        self._side = side

    async def send(self, frame: bytes) -> None:
        await self._line.count()
        frames = self.wire.frames[1 - self._side]
        async with self.wire.changed:
            await self.wire.changed.wait_for(
                lambda: any(self.wire.is_closed) or len(frames) < FRAMES_IN_FLIGHT
            )
            if any(self.wire.is_closed):
                raise self._lost()
            frames.append(frame)
            self.wire.changed.notify_all()

    async def receive(self) -> bytes:
        frames = self.wire.frames[self._side]
        async with self.wire.changed:
            await self.wire.changed.wait_for(lambda: frames or any(self.wire.is_closed))
            if not frames or self.wire.is_closed[self._side]:
                raise self._lost()
            self.wire.changed.notify_all()
            return frames.popleft()

    async def close(self) -> None:
        async with self.wire.changed:
            self.wire.is_closed[self._side] = True
            self.wire.changed.notify_all()

    def _lost(self) -> LineLostError:
        return LineLostError(f"the connection to {self.peer.address} is gone")
