"""Reconnecting: one loop for every line, with back-off and jitter, that never gives up in silence."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from tmrl.errors import LineLostError, ParcelError, ProtocolError, RefusedError
from tmrl.networking.messages import Message, Refuse, from_frame
from tmrl.networking.transport import Connection, Dialer, Service
from tmrl.waiting import Wait

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 15.0
LASTED_S = 0.5
"""A connection that is hung up on sooner, as by a server whose disk is full, counts as none."""


async def keep_connected(
    dialer: Dialer,
    service: Service,
    use: Callable[[Connection], Awaitable[None]],
    on_failure: Callable[[Exception], None],
    life: int = 0,
) -> None:
    """Dials, uses the connection until it is lost, and dials again, until that is of no use.

    Args:
        dialer: Dials the server.
        service: What for.
        use: Uses one connection. It may raise `LineLostError` whenever it likes to have another.
        on_failure: Called with why nothing is dialled any more: the server refuses and would again, or
            something fails at this end, such as the disk.
        life: Of the line that this connection is part of, see `Peer`.
    """
    wait, pause_s = Wait(f"a connection for {service}"), FIRST_PAUSE_S
    reason = "not dialled yet"
    while True:
        try:
            connection = await dialer.dial(service, life)
            began_at = time.monotonic()
            try:
                await use(connection)
            finally:
                await connection.close()
                if time.monotonic() - began_at > LASTED_S:
                    wait, pause_s = Wait(f"a connection for {service}"), FIRST_PAUSE_S
        except (LineLostError, ProtocolError, ParcelError) as error:
            reason = str(error)
        except Exception as error:
            on_failure(error)
            return
        # Apart from each other: a server that comes back is not run over by all of its workers at once.
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        wait.check(lambda why=reason: f"the server: {why}")


async def hear(connection: Connection) -> Message:
    """The next message of a connection.

    Raises:
        RefusedError: The other end refuses for good.
        LineLostError: It hung up, or the connection is gone.
        ProtocolError: It is no message.
    """
    message = from_frame(await connection.receive())
    if isinstance(message, Refuse):
        if message.is_final:
            raise RefusedError(f"{connection.peer.address} refuses: {message.reason}")
        raise LineLostError(f"{connection.peer.address} hung up: {message.reason}")
    return message
