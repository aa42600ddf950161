"""Asks a server how it stands."""

from tmrl.errors import LineLostError, ProtocolError
from tmrl.networking import background
from tmrl.networking.messages import Ask, Report, to_frame
from tmrl.networking.reconnect import hear
from tmrl.networking.report import ServerReport
from tmrl.networking.transport import Dialer


async def ask(dialer: Dialer) -> ServerReport:
    """The server's report.

    Raises:
        LineLostError: The server cannot be reached.
        RefusedError: It refuses.
        ProtocolError: It answers what is no report.
    """
    connection = await dialer.dial("status")
    try:
        await connection.send(to_frame(Ask()))
        report = await hear(connection)
    finally:
        await connection.close()
    if not isinstance(report, Report):
        raise ProtocolError(f"a server must answer with a Report, got {type(report).__name__}")
    return ServerReport.from_bytes(report.body)


def report_of(dialer: Dialer, timeout_s: float = 10.0) -> ServerReport:
    """The server's report, for a thread outside of the line's loop; hangs up.

    Raises:
        LineLostError: The server cannot be reached.
        RefusedError: It refuses.
        ProtocolError: It answers what is no report.
    """

    async def whole() -> ServerReport:
        try:
            return await ask(dialer)
        finally:
            await dialer.close()

    try:
        return background.run(whole(), timeout_s)
    except TimeoutError:
        raise LineLostError(f"{dialer.address} did not answer within {timeout_s:g} s") from None
