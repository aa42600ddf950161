"""Server: stands between workers and their trainer, wherever those are, and outlives both."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tmrl.networking import background
from tmrl.networking.addresses import DEFAULT_PORT
from tmrl.networking.hub import MAX_WORKERS, Hub
from tmrl.networking.policy_store import PolicyStore
from tmrl.networking.record_log import RamLog
from tmrl.networking.spool import LEDGER_BYTES, Spool
from tmrl.networking.transport import Listener, Loopback
from tmrl.retired import warn_retired

if TYPE_CHECKING:
    from tmrl.networking.credentials import ServerCredentials

SPOOL_BYTES = 10 * 10**9


class Server:
    """Takes parcels from workers, keeps them for the trainer, and hands out its policies.

    It serves from its construction on, in a thread of the background, until it is closed.

    Args:
        port: Port to listen at; 0 takes a free one. None listens to nobody but this process, see `loopback`.
        password, local_port, header_size, security, keys_dir: Accepted and ignored, with one warning: they
            configured the original's transport.
        max_workers: Most workers to know.
        host: Address to listen at; others than this machine's own need `credentials`.
        credentials: Folder that `tmrl credentials init` made, or what was read of it.
        spool: Folder that keeps what the trainer has not taken yet, so that it survives this process; None
            keeps it in RAM, and then workers keep their own copy until the trainer has it.
        spool_bytes: Most bytes to keep; when it is full, workers wait.
        window: Most messages of samples that a worker may have on their way.

    Raises:
        ValueError: Others can reach the address, and there are no credentials.
        OSError: The port is taken.
        StorageError: The spool cannot be written, or another server writes it.

    Attributes:
        port: The port taken, or None.
        host: As given.
        loopback: A dialer for a trainer or a worker in this process.
    """

    def __init__(
        self,
        port: int | None = DEFAULT_PORT,
        password: Any = None,
        local_port: Any = None,
        header_size: Any = None,
        security: Any = None,
        keys_dir: Any = None,
        max_workers: int = MAX_WORKERS,
        *,
        host: str = "127.0.0.1",
        credentials: "str | Path | ServerCredentials | None" = None,
        spool: str | Path | None = None,
        spool_bytes: int = SPOOL_BYTES,
        window: int = 8,
    ) -> None:
        warn_retired(
            "Server",
            "credentials=",
            password=password,
            local_port=local_port,
            header_size=header_size,
            security=security,
            keys_dir=keys_dir,
        )
        self.host = host
        self.loopback = Loopback("the server in this process")
        self._is_closed = False
        listener = None if port is None else listener_of(host, port, credentials)
        folder = None if spool is None else Path(spool)
        self._hub = background.run(_made(folder, spool_bytes, window, max_workers))
        self._listeners: list[Listener] = [self.loopback]
        try:
            background.run(self.loopback.start(self._hub.serve))
            if listener is not None:
                background.run(listener.start(self._hub.serve))
                self._listeners.append(listener)
        except BaseException:
            self.close()
            raise
        self.port = None if listener is None else listener.port

    def report(self) -> dict[str, Any]:
        """How everything stands, as what `json.dumps` takes; see `tmrl.networking.report.ServerReport`."""
        return background.run(_called(self._hub.report)).to_json()

    def close(self) -> None:
        """Hangs up, gives the port back, and puts everything that came on the disk."""
        if self._is_closed:
            return
        self._is_closed = True
        for listener in reversed(self._listeners):
            background.run(listener.stop())
        background.run(self._hub.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listener_of(host: str, port: int, credentials: "str | Path | ServerCredentials | None") -> Any:
    """What will listen at an address.

    Raises:
        ValueError: Others can reach the address, and there are no credentials.
        CredentialError: The credentials cannot be used.
    """
    from tmrl.networking.grpc_transport import GrpcListener

    if isinstance(credentials, str | Path):
        from tmrl.networking.credentials import ServerCredentials

        credentials = ServerCredentials.read(Path(credentials))
    return GrpcListener(host, port, credentials)


async def _made(folder: Path | None, spool_bytes: int, window: int, max_workers: int) -> Hub:
    """The hub, made in the loop that it lives in."""
    if folder is None:
        return Hub(Spool(RamLog(spool_bytes), is_durable=False), PolicyStore(), window, max_workers)
    from tmrl.networking.disk_log import DiskLog

    spool = Spool(DiskLog(folder / "parcels", spool_bytes, reserve_bytes=LEDGER_BYTES), is_durable=True)
    return Hub(spool, PolicyStore(folder), window, max_workers)


async def _called(report: Any) -> Any:
    return report()
