"""Guards of a server: what keeps one peer from using up what belongs to all, its time and its log."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import contextmanager

from tmrl.errors import ProtocolError
from tmrl.networking.fragments import PART_BYTES
from tmrl.networking.transport import Connection, Peer

FRAMES_PER_S = 1000.0
"""Of one connection; more wait in the sender's own buffers. Honest peers send a few."""
BURST_S = 1.0
"""How much of it may come at once."""
PARCELS_PER_FRAME = 16
"""So many more parcels in a frame count as another frame."""
MAX_CONNECTIONS = 16
"""Of one certificate. A worker and a trainer each need two, and some more while they reconnect."""
REASONS_TOLD = 4
"""Of one peer; a peer that finds ever new ways to be refused does not fill the log."""


class Paced:
    """A connection from which frames are taken only so fast; a faster sender waits, and is not refused.

    Args:
        connection: What it slows down.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._paid_until = 0.0

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self._connection.peer

    async def send(self, frame: bytes) -> None:
        """See `Connection`."""
        await self._connection.send(frame)

    async def receive(self) -> bytes | bytearray:
        """See `Connection`; each part of a large frame counts as a frame."""
        frame = await self._connection.receive()
        await self.spend(max(1.0, len(frame) / PART_BYTES))
        return frame

    async def spend(self, n_frames: float) -> None:
        """Waits for as long as so many frames need, beyond a burst."""
        now = time.monotonic()
        self._paid_until = max(self._paid_until, now - BURST_S) + n_frames / FRAMES_PER_S
        if self._paid_until > now:
            await asyncio.sleep(self._paid_until - now)

    async def close(self) -> None:
        """See `Connection`."""
        await self._connection.close()


class Doors:
    """How many connections each certificate has open."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def counted(self, peer: Peer) -> Generator[None]:
        """Counts a connection while it is open.

        Raises:
            ProtocolError: This certificate has too many.
        """
        name = peer.name
        if name is None:
            yield
            return
        if self._open[name] >= MAX_CONNECTIONS:
            raise ProtocolError(f"a peer may have {MAX_CONNECTIONS} connections open, and {name!r} has them")
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]


class Complaints:
    """What was said of each peer, so that it is said once.

    Args:
        max_peers: Most peers to remember; nothing is said of others.
    """

    def __init__(self, max_peers: int) -> None:
        self._max_peers = max_peers
        self._told: defaultdict[str, set[str]] = defaultdict(set)

    def is_news(self, who: str, reason: str) -> bool:
        """Whether to say that a peer is refused: each reason once, and not too many."""
        if who not in self._told and len(self._told) >= self._max_peers:
            return False
        told = self._told[who]
        if reason in told or len(told) >= REASONS_TOLD:
            return False
        told.add(reason)
        return True
