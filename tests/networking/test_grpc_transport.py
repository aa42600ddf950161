"""The transport over gRPC, on loopback, without TLS and with it."""

import asyncio
import socket
import time
from contextlib import asynccontextmanager

import pytest

from networking.numbered import numbered, ram_outbox, until
from tmrl.actor import ActorModule
from tmrl.errors import LineLostError, RefusedError
from tmrl.networking import background
from tmrl.networking.authority import Authority
from tmrl.networking.credentials import ClientCredential, ServerCredentials
from tmrl.networking.grpc_transport import GrpcDialer, GrpcListener, endpoint, is_loopback
from tmrl.networking.messages import MAX_FRAME_BYTES
from tmrl.networking.server import Server
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.worker_line import WorkerLine

TIMEOUT_S = 30.0


class Actor(ActorModule):
    def act(self, obs, test=False):
        return obs

    def save(self, path):
        path.write_bytes(b"weights %d" % self.observation_space)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class Ends:
    """How to make both ends of a line, with or without TLS."""

    def __init__(self, server: ServerCredentials | None, client: ClientCredential | None) -> None:
        self._server = server
        self._client = client

    def listener(self, port: int = 0, host: str = "127.0.0.1") -> GrpcListener:
        return GrpcListener(host, port, self._server)

    def dialer(self, port: int, host: str = "127.0.0.1") -> GrpcDialer:
        return GrpcDialer(host, port, self._client)

    @asynccontextmanager
    async def line(self, serve, host: str = "127.0.0.1"):
        listener = self.listener(host=host)
        await listener.start(serve)
        dialer = self.dialer(listener.port, host)
        try:
            yield listener, dialer
        finally:
            await dialer.close()
            await listener.stop()


@pytest.fixture(params=["plain", "tls"])
def ends(request, tmp_path) -> Ends:
    if request.param == "plain":
        return Ends(None, None)
    authority = Authority.create(tmp_path / "line", ["127.0.0.1", "::1"])
    worker = ClientCredential.read(authority.add_worker("robot-1"))
    return Ends(ServerCredentials.read(authority.folder), worker)


async def exchange(connection, frame):
    await connection.send(frame)
    return await connection.receive()


async def echo(service, connection):
    while True:
        await connection.send(service.encode() + b" " + await connection.receive())


def run(work):
    """Runs a test in the loop of the line, and checks that it leaves no task behind."""

    async def whole():
        before = asyncio.all_tasks()
        await work
        deadline = time.monotonic() + 5.0
        while (left := asyncio.all_tasks() - before) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert not left, left

    background.run(whole(), TIMEOUT_S)


def test_frames_go_both_ways_in_order(ends):
    async def work():
        async with ends.line(echo) as (_, dialer):
            first, second = await dialer.dial("samples"), await dialer.dial("policies")
            for number in range(50):
                await first.send(b"%d" % number)
                await second.send(b"%d" % number)
            assert [await first.receive() for _ in range(50)] == [b"samples %d" % n for n in range(50)]
            assert [await second.receive() for _ in range(50)] == [b"policies %d" % n for n in range(50)]

    run(work())


def test_the_listener_knows_whom_the_certificate_names(ends):
    peers = []

    async def note(_, connection):
        peers.append(connection.peer)
        await connection.send(b"noted")

    async def work():
        async with ends.line(note) as (_, dialer):
            await (await dialer.dial("samples", life=7)).receive()

    run(work())
    (peer,) = peers
    assert peer.address.startswith("127.0.0.1:")
    is_plain = ends._client is None
    assert (peer.name, peer.role) == ((None, None) if is_plain else ("robot-1", "worker"))
    assert peer.life == 7


@pytest.mark.parametrize("said", ["", "seven", "-1", "9" * 20, "9" * 5000])
def test_a_life_that_makes_no_sense_is_none(ends, said):
    lives = []

    async def note(_, connection):
        lives.append(connection.peer.life)
        await connection.send(b"noted")

    async def work():
        async with ends.line(note) as (_, dialer):
            await (await dialer.dial("samples", said)).receive()

    run(work())
    assert lives == [0]


def test_a_frame_of_the_greatest_size_arrives_and_a_greater_one_ends_the_connection(ends):
    async def count(_, connection):
        while True:
            await connection.send(b"%d" % len(await connection.receive()))

    async def work():
        async with ends.line(count) as (_, dialer):
            connection = await dialer.dial("samples")
            await connection.send(bytes(MAX_FRAME_BYTES))
            assert await connection.receive() == b"%d" % MAX_FRAME_BYTES
            with pytest.raises(LineLostError, match=r"cannot be reached|hung up"):
                await exchange(connection, bytes(MAX_FRAME_BYTES + 1))

    run(work())


def test_a_connection_that_the_server_ends_is_lost_after_what_was_sent(ends):
    async def speak(_, connection):
        await connection.send(b"last words")

    async def work():
        async with ends.line(speak) as (_, dialer):
            connection = await dialer.dial("samples")
            assert await connection.receive() == b"last words"
            with pytest.raises(LineLostError, match="hung up"):
                await connection.receive()
            with pytest.raises(LineLostError):
                await connection.send(b"too late")

    run(work())


def test_a_connection_that_the_dialer_ends_is_lost_for_the_server(ends):
    lost = asyncio.Event()

    async def listen(_, connection):
        try:
            await connection.send(b"listening")
            await connection.receive()
        except (LineLostError, asyncio.CancelledError):
            lost.set()
            raise

    async def work():
        async with ends.line(listen) as (_, dialer):
            connection = await dialer.dial("samples")
            await connection.receive()
            await connection.close()
            await asyncio.wait_for(lost.wait(), 5)

    run(work())


def test_closing_the_dialer_loses_its_connections_and_cancels_nobody(ends):
    async def work():
        async with ends.line(echo) as (_, dialer):
            connection = await dialer.dial("samples")
            hearing = asyncio.ensure_future(connection.receive())
            await asyncio.sleep(0.05)
            await dialer.close()
            with pytest.raises(LineLostError, match="closed at this end"):
                await hearing
            again = await dialer.dial("samples")
            await again.send(b"again")
            assert await again.receive() == b"samples again"

    run(work())


def test_a_server_that_stops_is_lost_and_one_at_the_same_port_is_found_again(ends):
    async def work():
        async with ends.line(echo) as (listener, dialer):
            connection = await dialer.dial("samples")
            await listener.stop()
            with pytest.raises(LineLostError):
                await connection.receive()
            with pytest.raises(LineLostError, match="cannot be reached: "):
                await dialer.dial("samples")
            second = ends.listener(listener.port)
            await second.start(echo)
            try:
                again = await found_again(dialer)
                assert await exchange(again, b"again") == b"samples again"
            finally:
                await second.stop()

    run(work())


async def found_again(dialer):
    """A connection, once gRPC tries again."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return await dialer.dial("samples")
        except LineLostError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


def test_samples_and_policies_are_both_there_again_after_each_restart_of_the_server(ends):
    """Neither connection may be lost with the other; each server begins with another policy number 1."""
    with Server(port=0, credentials=ends._server) as server:
        port = server.port
    with WorkerLine(ends.dialer(port), ram_outbox("robot-1"), batch_s=0.01, close_s=0.1) as line:
        for version in range(1, 4):
            with (
                Server(port=port, credentials=ends._server) as server,
                TrainerLine(server.loopback) as trainer,
            ):
                line.send(numbered("robot-1", 10 * version, 10))
                trainer.broadcast_model(Actor(version, None))
                until(lambda trainer=trainer: len(trainer.retrieve_buffer()))
                assert line.receive(10, None).n_policies == 1


def test_a_port_that_is_taken_is_refused_with_the_remedy(ends):
    async def work():
        async with ends.line(echo) as (listener, _):
            assert listener.port > 0
            with pytest.raises(OSError, match=f"a free port, got 127.0.0.1:{listener.port}; choose another"):
                await ends.listener(listener.port).start(echo)

    run(work())


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_addresses_of_ipv6_work(ends):
    async def work():
        async with ends.line(echo, "::1") as (_, dialer):
            connection = await dialer.dial("status")
            await connection.send(b"six")
            assert await connection.receive() == b"status six"

    run(work())


def test_a_peer_that_does_not_read_makes_the_sender_wait(ends):
    """Else a slow peer would fill the memory of the other end."""
    sent = 0

    async def work():
        nonlocal sent

        async def pour(_, connection):
            nonlocal sent
            while True:
                await connection.send(bytes(1 << 20))
                sent += 1

        async with ends.line(pour) as (_, dialer):
            connection = await dialer.dial("samples")
            await asyncio.sleep(0.5)
            waiting = sent
            assert waiting < 32
            for _ in range(waiting + 8):
                assert len(await connection.receive()) == 1 << 20
            assert sent > waiting

    run(work())


def test_an_unknown_service_is_refused(ends):
    async def work():
        async with ends.line(echo) as (_, dialer):
            with pytest.raises(LineLostError, match="Method not found"):
                await (await dialer.dial("shell")).receive()

    run(work())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "unix:/tmp/line", ""])
def test_listening_for_others_needs_credentials(host):
    with pytest.raises(ValueError, match=r"needs credentials, got none for .*; run `tmrl credentials init"):
        GrpcListener(host, 0)


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", "2001:db8::1", "localhost.example.org"])
def test_dialling_another_machine_needs_a_credential(host):
    with pytest.raises(ValueError, match=r"needs a credential, got none for .*; on the server run"):
        GrpcDialer(host, 55555)


def test_a_server_that_lets_nobody_but_its_own_authority_in(tmp_path):
    """A plain dialer, and one of another authority, do not get a word across, and each learns why."""
    ours, theirs = (Authority.create(tmp_path / name, ["127.0.0.1"]) for name in ("ours", "theirs"))
    server = ServerCredentials.read(ours.folder)
    stranger = ClientCredential.read(theirs.add_worker("robot-1"))

    async def work():
        heard = []

        async def note(service, _):
            heard.append(service)

        async with Ends(server, stranger).line(note) as (listener, dialer):
            plain = GrpcDialer("127.0.0.1", listener.port)
            for caller in (dialer, plain):
                with pytest.raises(LineLostError, match="cannot be reached: "):
                    await caller.dial("samples")
            await plain.close()
            assert heard == []

    run(work())


def test_who_was_revoked_is_refused_for_good(tmp_path):
    authority = Authority.create(tmp_path / "line", ["127.0.0.1"])
    worker = ClientCredential.read(authority.add_worker("robot-1"))
    authority.revoke("robot-1")

    async def work():
        async with Ends(ServerCredentials.read(authority.folder), worker).line(echo) as (_, dialer):
            with pytest.raises(RefusedError, match="the certificate of worker 'robot-1' was revoked"):
                await (await dialer.dial("samples")).receive()

    run(work())


def test_endpoints_and_loopback_addresses():
    assert [endpoint("::1", 5), endpoint("[::1]", 5), endpoint("host", 5)] == ["[::1]:5", "[::1]:5", "host:5"]
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"]))
    assert not any(map(is_loopback, ["127.0.0.1.nip.io", "0.0.0.0", "::", "128.0.0.1", "local", ""]))
