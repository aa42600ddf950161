"""How a server listens to a peer: who may speak, what is heard first, and what after the last word."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from tmrl.errors import LineLostError, ProtocolError, RefusedError
from tmrl.networking.messages import Message, Refuse, from_frame
from tmrl.networking.tasks import either
from tmrl.networking.transport import Connection, Peer, Service

M = TypeVar("M", bound=Message)

LIVES_KEPT = 8
"""Programs that a place remembers; one that was forgotten counts as new."""


class Seat:
    """The place of one worker, or of the trainer: the program that was begun last has it.

    Programs are told apart by their lives, see `Peer`, and a server learns in which order they were begun by
    when it first sees them:

    - A life that it has not seen drives the one that is here, on all of its connections and for good. Both
      may be alive, and would else drive each other for ever. Or the older was killed, and nobody hears it.
    - The same life again has lost its connection, and takes the place of what is left of it without a word.
    - An older life is refused for good while a newer one is here. Once that is gone it may come back: it
      takes nothing from anybody, and a robot that was cut off while somebody tried another program under its
      name had better go on. It makes way again if the newer one returns.

    Lives are what peers say of themselves, so they must be checked to be the ones that this place is for.
    A server that begins anew knows none: then two programs that both run meet once more, and one stays.

    Args:
        whose: For messages: `trainer`, or `worker named 'robot-1'`.
        remedy: For messages: what to do about two of them.
    """

    def __init__(self, whose: str, remedy: str) -> None:
        self._whose = whose
        self._remedy = remedy
        self._lives: deque[int] = deque(maxlen=LIVES_KEPT)
        self._held: dict[Service, _Held] = {}

    def connection(self, service: Service) -> Connection | None:
        """What is open for a service; None if nothing is."""
        held = self._held.get(service)
        return None if held is None else held.connection

    async def hold(
        self, service: Service, connection: Connection, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Does some work, until it ends or another connection takes its place.

        Raises:
            RefusedError: Another program has taken over, before or meanwhile.
            LineLostError: This program has connected again.
        """
        held = self._taken(service, connection)
        try:
            await either(work(), held.until_driven())
        finally:
            if self._held.get(service) is held:
                del self._held[service]

    def _taken(self, service: Service, connection: Connection) -> "_Held":
        peer = connection.peer
        for other, held in list(self._held.items()):  # all of one life
            here = held.connection.peer
            if self._is_older(peer.life, here.life):
                raise self._driven_by(here)
            if peer.life != here.life:
                self._held.pop(other).drive(self._driven_by(peer))
            elif other == service:
                held.drive(LineLostError(f"{here.address} has connected again"))
        if peer.life not in self._lives:
            self._lives.append(peer.life)
        self._held[service] = _Held(connection)
        return self._held[service]

    def _is_older(self, life: int, here: int) -> bool:
        return life in self._lives and self._lives.index(life) < self._lives.index(here)

    def _driven_by(self, newer: Peer) -> RefusedError:
        where = newer.address.rsplit(":", 1)[0]
        return RefusedError(f"another {self._whose} has taken over from {where}; {self._remedy}")


class _Held:
    """One connection in its place, until it is driven."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._is_driven = asyncio.Event()
        self._reason: Exception = LineLostError("")

    def drive(self, reason: Exception) -> None:
        self._reason = reason
        self._is_driven.set()

    async def until_driven(self) -> None:
        await self._is_driven.wait()
        raise self._reason


async def first_message(connection: Connection, kind: type[M], timeout_s: float) -> M:
    """The first message of a connection.

    Raises:
        ProtocolError: It is another one.
        TimeoutError: None comes.
    """
    async with asyncio.timeout(timeout_s):
        message = from_frame(await connection.receive())
    if isinstance(message, Refuse):
        raise LineLostError(f"{connection.peer.address} hung up: {message.reason}")
    if not isinstance(message, kind):
        raise ProtocolError(f"the first message must be a {kind.__name__}, got {type(message).__name__}")
    return message


async def until_lost(connection: Connection) -> None:
    """Waits for a peer that has nothing more to say to hang up.

    Raises:
        LineLostError: It has.
        ProtocolError: It says something.
    """
    raise ProtocolError(f"there is nothing more to say here, got {len(await connection.receive()):,} bytes")


async def linger(connection: Connection, timeout_s: float) -> None:
    """Leaves a peer time to hear the last word: where a call ends, gRPC drops what was not read yet."""
    with suppress(LineLostError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(ProtocolError):
                    await connection.receive()
