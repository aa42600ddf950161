"""How a server listens to a peer: who may speak, what is heard first, and what after the last word."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from tmrl.errors import LineLostError, ProtocolError
from tmrl.networking.messages import Message, Refuse, from_frame
from tmrl.networking.transport import Connection

M = TypeVar("M", bound=Message)


class Seat:
    """A place for one connection, from which a newer one drives the older.

    Attributes:
        connection: Who has it; None if it is free.
    """

    def __init__(self) -> None:
        self.connection: Connection | None = None

    @asynccontextmanager
    async def taken(
        self, connection: Connection, hang_up: Callable[[Connection], Awaitable[None]]
    ) -> AsyncGenerator[None]:
        """Holds the place while in the context, or until a newer connection takes it.

        Args:
            connection: Who takes it.
            hang_up: Tells the older one why, and ends it.
        """
        while (older := self.connection) is not None:  # others may come while it is hung up on
            self.connection = None
            await hang_up(older)
            await older.close()
        self.connection = connection
        try:
            yield
        finally:
            if self.connection is connection:
                self.connection = None


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
                await connection.receive()
