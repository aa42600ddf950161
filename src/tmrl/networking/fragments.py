"""Fragments: how a frame crosses a transport that takes memory for a whole message before anybody sees it.

So messages are small there, and a larger frame comes in parts, of which the first begins with the length of
all. Whoever hears that refuses a frame that is too long for its service before the rest of it is held.

    up to PART_BYTES   the frame as it is
    more               its length with the highest bit set, 4 bytes, and the beginning | the rest, in messages

A frame begins with the length of its header, in which that bit is never set. All messages but the last have
PART_BYTES, so nobody can announce much and send it in crumbs.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator
from weakref import WeakValueDictionary

from tmrl.errors import ProtocolError
from tmrl.networking.messages import MAX_FRAME_BYTES, MAX_HEADER_BYTES, MAX_REPORT_BYTES
from tmrl.networking.transport import Peer, Service

PART_BYTES = 8 << 20
"""Of one message of the transport. With half of it, rows of 7 KB in parcels of 7 MB went a tenth slower."""
PART_TIMEOUT_S = 240.0
"""How long the next part of a frame may take: 35 kB/s are enough."""
_LENGTH = struct.Struct("<I")
_MARK = 1 << 31
_PLAIN_BYTES = _LENGTH.size + MAX_HEADER_BYTES
"""Of a frame without a body."""

HEARD_BY_SERVERS: dict[Service, int] = {
    "samples": MAX_FRAME_BYTES,
    "policies": _PLAIN_BYTES,
    "feed": _PLAIN_BYTES,
    "publish": MAX_FRAME_BYTES,
    "status": _PLAIN_BYTES,
}
"""Bytes of the largest frame that a server takes."""
HEARD_BY_PEERS: dict[Service, int] = {
    "samples": _PLAIN_BYTES,
    "policies": MAX_FRAME_BYTES,
    "feed": MAX_FRAME_BYTES,
    "publish": _PLAIN_BYTES,
    "status": _PLAIN_BYTES + MAX_REPORT_BYTES,
}
"""Bytes of the largest frame that a worker, a trainer or whoever asks takes of a server."""


class Turns:
    """Lets each peer have one frame in the making, however many connections it has."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, peer: Peer) -> asyncio.Lock:
        """What to hold while a frame is made; a peer without a certificate is of this machine, and free."""
        lock = asyncio.Lock()
        return lock if peer.name is None else self._locks.setdefault(peer.name, lock)


def messages_of(frame: bytes) -> Iterator[bytes]:
    """The messages that carry a frame."""
    if len(frame) <= PART_BYTES:
        yield frame
        return
    stop = PART_BYTES - _LENGTH.size
    yield _LENGTH.pack(_MARK + len(frame)) + frame[:stop]
    for start in range(stop, len(frame), PART_BYTES):
        yield frame[start : start + PART_BYTES]


async def frame_of(
    read: Callable[[], Awaitable[bytes]], max_bytes: int, turn: asyncio.Lock
) -> bytes | bytearray:
    """The next frame.

    Args:
        read: Waits for the next message.
        max_bytes: Most that the frame may be.
        turn: Held while it is made of parts.

    Raises:
        ProtocolError: It is longer, or does not come as it was announced.
    """
    message = await read()
    (length,) = _LENGTH.unpack(message[: _LENGTH.size]) if len(message) >= _LENGTH.size else (0,)
    n_bytes = length - _MARK if length >= _MARK else len(message)
    if n_bytes > max_bytes:
        raise ProtocolError(f"a frame must be at most {max_bytes:,} bytes here, got one of {n_bytes:,}")
    if length < _MARK:
        return message
    async with turn:
        return await _joined(message, read, n_bytes)


async def _joined(message: bytes, read: Callable[[], Awaitable[bytes]], n_bytes: int) -> bytearray:
    frame = bytearray()  # grows with what is there: an announcement costs no more than its message
    due = n_bytes + _LENGTH.size
    while True:
        if len(message) != min(due, PART_BYTES):
            raise ProtocolError(
                f"a frame of {n_bytes:,} bytes must come in messages of {PART_BYTES:,} and the rest, got one "
                f"of {len(message):,} where {due:,} were due"
            )
        frame += message if frame else memoryview(message)[_LENGTH.size :]
        due -= len(message)
        if not due:
            return frame
        message = await _next(read, due, n_bytes)


async def _next(read: Callable[[], Awaitable[bytes]], due: int, n_bytes: int) -> bytes:
    try:
        async with asyncio.timeout(PART_TIMEOUT_S):
            return await read()
    except TimeoutError:
        raise ProtocolError(
            f"a frame must go on within {PART_TIMEOUT_S:g} s, but {due:,} of its {n_bytes:,} bytes are due"
        ) from None
