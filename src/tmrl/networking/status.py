"""Asks a server how it stands."""

from typing import Any

from tmrl.errors import ProtocolError
from tmrl.networking.messages import Ask, Report, to_frame
from tmrl.networking.reconnect import hear
from tmrl.networking.transport import Dialer


async def ask(dialer: Dialer) -> dict[str, Any]:
    """The server's report; see `Hub.report`.

    Raises:
        LineLostError: The server cannot be reached.
        RefusedError: It refuses.
    """
    connection = await dialer.dial("status")
    try:
        await connection.send(to_frame(Ask()))
        report = await hear(connection)
    finally:
        await connection.close()
    if not isinstance(report, Report):
        raise ProtocolError(f"a server must answer with a Report, got {type(report).__name__}")
    return report.document
