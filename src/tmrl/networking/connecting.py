"""Lines made from what a user knows: an address, or the file of a credential."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tmrl.networking.addresses import DEFAULT_PORT
from tmrl.networking.delivery import Outbox, WhenFull
from tmrl.networking.record_log import RamLog
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.transport import Dialer
from tmrl.networking.worker_line import WorkerLine

if TYPE_CHECKING:
    from tmrl.networking.credentials import ClientCredential

OUTBOX_BYTES = 10**9
OUTBOX = "outbox"
"""Folder of the outboxes of workers that have a name of their own."""
RAM: Literal["ram"] = "ram"
"""Stands for an outbox that ends with its process."""


def credential_of(given: "str | Path | ClientCredential") -> "ClientCredential":
    """What the file of a credential says; if it expires soon, the log says so.

    Raises:
        CredentialError: The file cannot be used.
    """
    if not isinstance(given, str | Path):
        return given
    from tmrl.networking.credentials import ClientCredential, remark_expiry

    credential = ClientCredential.read(Path(given))
    remark_expiry(credential.cert_pem)
    return credential


def outbox_place(name: str | None, given: str | Path | None = None) -> str | Path:
    """Where the outbox of a worker is: as given, else `ram` if the worker has no name to find it again by."""
    return given or (RAM if name is None else OUTBOX)


def dialer_of(
    server_ip: str | None, server_port: int | None, credential: "str | Path | ClientCredential | None"
) -> Dialer:
    """What dials the server at an address, or at the one that a credential names.

    Raises:
        ValueError: The server is another machine, and there is no credential.
        CredentialError: The file of the credential cannot be used.
    """
    from tmrl.networking.grpc_transport import GrpcDialer

    if credential is None:
        return GrpcDialer(server_ip or "127.0.0.1", server_port or DEFAULT_PORT)
    credential = credential_of(credential)
    return GrpcDialer(server_ip or credential.host, server_port or credential.port, credential)


def outbox_of(
    name: str,
    where: str | Path = RAM,
    max_bytes: int = OUTBOX_BYTES,
    when_full: WhenFull = "block",
    wait_limit_s: float = float("inf"),
) -> Outbox:
    """The outbox of a worker.

    Args:
        name: Of the worker.
        where: A folder, in which `name` gets its own; or `ram`.
        max_bytes: Most bytes that may wait in it.
        when_full: `block` makes the worker wait, `drop` drops the oldest episodes.
        wait_limit_s: Longest wait for room.

    Raises:
        StorageError: The folder cannot be written, or another worker of this name uses it.
    """
    if where == RAM:
        return Outbox(name, RamLog(max_bytes), False, when_full, wait_limit_s)
    from tmrl.networking.disk_log import DiskLog

    return Outbox(
        name, DiskLog(Path(where) / name.replace("/", "_"), max_bytes), True, when_full, wait_limit_s
    )


def connect_worker(
    name: str,
    server_ip: str | None = None,
    server_port: int | None = None,
    credential: "str | Path | ClientCredential | None" = None,
    outbox: str | Path = RAM,
    outbox_bytes: int = OUTBOX_BYTES,
    when_full: WhenFull = "block",
    compress: Sequence[str] = (),
    wait_limit_s: float = float("inf"),
    close_s: float = 10.0,
) -> WorkerLine:
    """A worker's line to a server; it connects in the background, now and whenever it has to again.

    Args:
        name: Of the worker; that of its certificate where there is a credential.
        server_ip: The server's name or address; by default this machine, or what the credential says.
        server_port: Its port.
        credential: File that `tmrl credentials worker` made; needed off this machine.
        outbox: Folder of outboxes, or `ram`, see `outbox_of`.
        outbox_bytes: Most bytes that may wait in it.
        when_full: `block` makes the worker wait, `drop` drops the oldest episodes.
        compress: Fields to compress losslessly, see `WorkerLine`.
        wait_limit_s: Longest wait for room in the outbox.
        close_s: Longest wait, at the end, for what is on its way.
    """
    dialer = dialer_of(server_ip, server_port, credential)
    box = outbox_of(name, outbox, outbox_bytes, when_full, wait_limit_s)
    return WorkerLine(dialer, box, compress, close_s=close_s)


def connect_trainer(
    server_ip: str | None = None,
    server_port: int | None = None,
    credential: "str | Path | ClientCredential | None" = None,
    wait_limit_s: float = float("inf"),
) -> TrainerLine:
    """A trainer's line to a server; see `connect_worker`."""
    return TrainerLine(dialer_of(server_ip, server_port, credential), wait_limit_s=wait_limit_s)
