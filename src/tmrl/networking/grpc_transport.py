"""The transport over gRPC: one TCP connection, with TLS off this machine, carries all streams of one peer.

A worker only ever dials out, which is what works behind a home router; pings below half a minute keep the
router's table entry alive and tell a dead peer from a silent one. Frames are opaque bytes, the large ones in
parts, see `tmrl.networking.fragments`: there is no protobuf and no code made from one. This module alone
imports gRPC, when the first server or line is made.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
import grpc.aio

from tmrl.errors import CredentialError, LineLostError, RefusedError
from tmrl.networking.credentials import ClientCredential, Identity, ServerCredentials, identity_of
from tmrl.networking.fragments import (
    HEARD_BY_PEERS,
    HEARD_BY_SERVERS,
    PART_BYTES,
    Turns,
    frame_of,
    messages_of,
)
from tmrl.networking.tasks import look_at
from tmrl.networking.transport import SERVICES, Connection, Peer, Serve, Service

T = TypeVar("T")
logger = logging.getLogger(__name__)

PREFIX = "/tmrl.Line/"
LIFE = "tmrl-life"
"""Key of the metadata of a call; its value is a number."""
PING_INTERVAL_S = 20
PING_TIMEOUT_S = 10
DIAL_TIMEOUT_S = 30.0
STOP_GRACE_S = 1.0
_EOF: Any = vars(grpc.aio)["EOF"]  # which its type stubs do not know
REVOCATION_INTERVAL_S = 1.0
MAX_LIFE_DIGITS = 20

_COMMON: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", PART_BYTES),
    ("grpc.max_receive_message_length", PART_BYTES),
    ("grpc.keepalive_time_ms", PING_INTERVAL_S * 1000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_S * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_OF_DIALER = [
    *_COMMON,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    # The pauses between dials are those of `keep_connected`, and gRPC's own are to be shorter.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_OF_LISTENER = [
    *_COMMON,
    ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_S * 500),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_S * 500),
    ("grpc.max_metadata_size", 8192),
    # A line is two streams; each may hold a frame that has not arrived whole.
    ("grpc.max_concurrent_streams", 16),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.so_reuseport", 0),
]


def is_loopback(host: str) -> bool:
    """Whether an address is that of this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def endpoint(host: str, port: int) -> str:
    """An address as gRPC takes it."""
    is_v6 = ":" in host and not host.startswith("[")
    return f"[{host}]:{port}" if is_v6 else f"{host}:{port}"


class GrpcDialer:
    """Dials a server.

    Args:
        host: Of the server.
        port: Of the server.
        credential: What proves to the server who dials, and by what the server is known; None dials without
            TLS, to this machine alone.

    Raises:
        ValueError: The host is another machine, and there is no credential.
    """

    def __init__(self, host: str, port: int, credential: ClientCredential | None = None) -> None:
        if credential is None and not is_loopback(host):
            raise ValueError(
                f"a line to another machine needs a credential, got none for {host}; on the server run "
                "`tmrl credentials worker DIR NAME`, bring the file here, and give it as --credential "
                "(in Python credential=)"
            )
        self.address = endpoint(host, port)
        self._credential = credential
        self._channel: grpc.aio.Channel | None = None

    async def dial(self, service: Service, life: int = 0) -> Connection:
        """Opens a connection; the server answers with its first frame, or with why it does not."""
        if self._channel is None:
            self._channel = self._open()
        # A channel that fails stays open: to close it would cancel the calls of others.
        call = self._channel.stream_stream(f"{PREFIX}{service}")(metadata=[(LIFE, str(life))])
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                # Not `wait_for_connection`: where the channel is closed meanwhile, that waits for ever.
                await _unless_closed(call.initial_metadata(), self.address)
                if call.done():
                    code, details = await call.code(), await call.details()
                    raise _lost_by(code, details, self.address)
        except grpc.aio.AioRpcError as error:
            raise _lost(error, self.address) from error
        except TimeoutError as error:
            call.cancel()
            raise LineLostError(f"{self.address} did not answer within {DIAL_TIMEOUT_S:g} s") from error
        return _Call(call, Peer(self.address), HEARD_BY_PEERS[service])

    def _open(self) -> grpc.aio.Channel:
        if self._credential is None:
            return grpc.aio.insecure_channel(self.address, _OF_DIALER)
        own = self._credential
        secrets = grpc.ssl_channel_credentials(own.ca_pem, own.key_pem, own.cert_pem)
        return grpc.aio.secure_channel(self.address, secrets, _OF_DIALER)

    async def close(self) -> None:
        """Ends all connections; the next `dial` begins anew."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


async def _unless_closed(work: Awaitable[T], address: str) -> T:
    """What a call returns.

    Raises:
        LineLostError: Its channel was closed meanwhile. gRPC then raises what also cancels tasks, and would
            end the caller's in silence.
    """
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise LineLostError(f"the connection to {address} was closed at this end") from error
    except grpc.aio.UsageError as error:
        raise LineLostError(f"the connection to {address} was closed at this end: {error}") from error


def _lost(error: grpc.aio.AioRpcError, address: str) -> LineLostError | RefusedError:
    return _lost_by(error.code(), error.details(), address)


def _lost_by(code: grpc.StatusCode, details: str | None, address: str) -> LineLostError | RefusedError:
    if code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}:
        return RefusedError(f"{address} refuses: {details}")
    return LineLostError(f"{address} cannot be reached: {_reason(details)}")


def _reason(details: str | None) -> str:
    """The part of gRPC's report that says what failed, without what it was trying."""
    if details and "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            "its certificate is none that this credential trusts; see whether the credential is that of "
            "another server, or whether the server goes by another name"
        )
    return (details or "no reason given").rpartition("Failed to connect to remote host: ")[2]


class _Call:
    """A connection as the dialer sees it."""

    def __init__(self, call: Any, peer: Peer, max_bytes: int) -> None:
        self.peer = peer
        self._call = call
        self._max_bytes = max_bytes
        self._lock, self._turn = asyncio.Lock(), asyncio.Lock()

    async def send(self, frame: bytes) -> None:
        async with self._lock:
            try:
                for message in messages_of(frame):
                    await _unless_closed(self._call.write(message), self.peer.address)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                raise await self._gone(error) from error

    async def receive(self) -> bytes | bytearray:
        return await frame_of(self._read, self._max_bytes, self._turn)

    async def _read(self) -> bytes:
        try:
            message = await _unless_closed(self._call.read(), self.peer.address)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await self._gone(error) from error
        if message is _EOF:
            raise await self._gone(None)
        return message

    async def _gone(self, error: BaseException | None) -> LineLostError | RefusedError:
        if isinstance(error, grpc.aio.AioRpcError):
            return _lost(error, self.peer.address)
        code, details = await self._call.code(), await self._call.details()
        if code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}:
            return RefusedError(f"{self.peer.address} refuses: {details}")
        return LineLostError(f"{self.peer.address} hung up: {code.name}, {details}")

    async def close(self) -> None:
        self._call.cancel()


class GrpcListener:
    """Listens for peers.

    Args:
        host: Address to listen at.
        port: Port; 0 takes a free one.
        credentials: Of the server; None listens without TLS, on this machine alone.

    Attributes:
        port: The port taken, once started.

    Raises:
        ValueError: The address can be reached from elsewhere, and there are no credentials.
    """

    def __init__(self, host: str, port: int, credentials: ServerCredentials | None = None) -> None:
        if credentials is None and not is_loopback(host):
            raise ValueError(
                f"a server that others can reach needs credentials, got none for {host}; run "
                "`tmrl credentials init --host THIS-HOST DIR` and give DIR as --credentials (in Python "
                "credentials=), or listen at 127.0.0.1"
            )
        self.port = port
        self._host = host
        self._credentials = credentials
        self._server: grpc.aio.Server | None = None
        self._serve: Serve | None = None
        self._open: dict[_Context, Identity | None] = {}
        self._turns = Turns()
        self._watch: asyncio.Task[None] | None = None

    async def start(self, serve: Serve) -> None:
        """Begins to take connections.

        Raises:
            OSError: The port is taken, or the address is not this machine's.
        """
        self._serve = serve
        server = grpc.aio.server(options=_OF_LISTENER)
        handlers = {
            service: grpc.stream_stream_rpc_method_handler(self._handler(service)) for service in SERVICES
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("tmrl.Line", handlers)])
        wanted = endpoint(self._host, self.port)
        try:
            if self._credentials is None:
                self.port = server.add_insecure_port(wanted)
            else:
                self.port = server.add_secure_port(wanted, _secrets(self._credentials))
        except RuntimeError as error:
            await server.stop(None)
            raise OSError(
                f"the server must listen at an address of this machine with a free port, got {wanted}; "
                "choose another --port, or see what holds it"
            ) from error
        await server.start()
        self._server = server
        if self._credentials is not None:
            self._watch = asyncio.ensure_future(self._end_revoked(self._credentials))

    def _handler(self, service: Service) -> Any:
        async def handle(_: Any, context: Any) -> None:
            identity = await self._identity(context)
            peer = _peer_of(context, identity)
            connection = _Context(context, peer, HEARD_BY_SERVERS[service], self._turns.of(peer))
            # The dialer waits for it.
            await context.send_initial_metadata(())
            if self._serve is None:
                return
            self._open[connection] = identity
            try:
                await connection.run(self._serve(service, connection))
            finally:
                del self._open[connection]

        return handle

    async def _identity(self, context: Any) -> Identity | None:
        if self._credentials is None:
            return None
        try:
            return _unrevoked(self._credentials, context.auth_context()["x509_pem_cert"][0])
        except CredentialError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            raise

    async def _end_revoked(self, credentials: ServerCredentials) -> None:
        """Ends open connections whose certificate is over: TLS looks at it only at the beginning."""
        while True:
            await asyncio.sleep(REVOCATION_INTERVAL_S)
            for connection, identity in list(self._open.items()):
                if identity is not None and credentials.is_over(identity):
                    logger.warning(
                        "%s %r is hung up on: its certificate is over", identity.role, identity.name
                    )
                    await connection.close()

    async def stop(self) -> None:
        """Ends all connections and gives the port back."""
        if self._watch is not None:
            self._watch.cancel()
        server, self._server = self._server, None
        for connection in list(self._open):
            await connection.close()
        if server is not None:
            await server.stop(STOP_GRACE_S)


def _unrevoked(credentials: ServerCredentials, cert_pem: bytes) -> Identity:
    """Whose certificate it is.

    Raises:
        CredentialError: It was revoked, or is none of a peer.
    """
    identity = identity_of(cert_pem)
    if credentials.is_revoked(cert_pem):
        raise CredentialError(f"the certificate of {identity.role} {identity.name!r} was revoked")
    return identity


def _peer_of(context: Any, identity: Identity | None) -> Peer:
    address = unquote(str(context.peer()).partition(":")[2])
    said = dict(context.invocation_metadata()).get(LIFE, "")
    life = int(said) if isinstance(said, str) and said.isdecimal() and len(said) < MAX_LIFE_DIGITS else 0
    if identity is None:
        return Peer(address, life=life)
    return Peer(address, identity.name, identity.role, life)


def _secrets(own: ServerCredentials) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([(own.key_pem, own.cert_pem)], own.ca_pem, require_client_auth=True)


class _Context:
    """A connection as the listener sees it."""

    def __init__(self, context: Any, peer: Peer, max_bytes: int, turn: asyncio.Lock) -> None:
        self.peer = peer
        self._context = context
        self._max_bytes = max_bytes
        self._lock, self._turn = asyncio.Lock(), turn
        self._is_writing = False
        self._task: asyncio.Future[None] | None = None

    async def run(self, work: Any) -> None:
        """Serves until the end, or until this end closes."""
        self._task = task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        if not task.cancelled():
            task.result()

    async def send(self, frame: bytes) -> None:
        async with self._lock:
            if self._is_writing:
                raise LineLostError(f"{self.peer.address} is gone: it does not take what was sent before")
            write = asyncio.ensure_future(self._write(frame))
            write.add_done_callback(look_at)
            try:
                await asyncio.shield(write)
            except asyncio.CancelledError:
                # A write that is cut short would take the last word of this end with it.
                await asyncio.wait([write], timeout=STOP_GRACE_S)
                raise
            except Exception as error:
                raise LineLostError(f"{self.peer.address} is gone: {error}") from error

    async def _write(self, frame: bytes) -> None:
        self._is_writing = True
        for message in messages_of(frame):
            await self._context.write(message)
        self._is_writing = False

    async def receive(self) -> bytes | bytearray:
        return await frame_of(self._read, self._max_bytes, self._turn)

    async def _read(self) -> bytes:
        try:
            message = await self._context.read()
        except Exception as error:
            raise LineLostError(f"{self.peer.address} is gone: {error}") from error
        if message is _EOF:
            raise LineLostError(f"{self.peer.address} hung up")
        return message

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
