"""Frames that are mutated or random, at every end of the line: refused, and then everything works as before.

The bulk goes over the transport within a process, the same ends over gRPC a few hundred times.
"""

import asyncio
import logging
import random
import time
from pathlib import Path

import pytest

from networking.numbered import numbered, ram_outbox, steps_of, until
from networking.scene import Scene, parcel
from tmrl.buffer import Buffer
from tmrl.errors import LineLostError, ProtocolError, RefusedError
from tmrl.networking import background, reconnect
from tmrl.networking.messages import (
    Ack,
    Ask,
    Hello,
    Nack,
    Policy,
    Put,
    Refuse,
    Report,
    Skip,
    Subscribe,
    Welcome,
    Wish,
    from_frame,
    to_frame,
)
from tmrl.networking.policy_store import policy_message
from tmrl.networking.report import ServerReport, SpoolReport, TrainerReport
from tmrl.networking.server import Server
from tmrl.networking.spool import skip_record, to_record
from tmrl.networking.status import report_of
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.transport import SERVICES, Loopback
from tmrl.networking.worker_line import WorkerLine

N_FRAMES = [10_000, pytest.param(1_000_000, marks=[pytest.mark.stress, pytest.mark.timeout(7200)])]
GROWTH_BYTES = 300 << 20
"""What the process may grow by; a single frame may claim far more."""


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


def put(*bodies: bytes) -> bytes:
    return to_frame(Put(0, tuple(map(len, bodies))), bodies)


WISHES = {"info_keys": ["success"], "with_crc": False}
RECORD = b"".join(to_record("robot", 1, 0, 7, parcel("robot", 0, 7)))
SAID_BY_PEERS = {
    "samples": [to_frame(Hello("robot", 1, 0)), put(parcel("robot", 0, 7)), to_frame(Skip(1, (5, 6)))],
    "policies": [to_frame(Subscribe("robot", 3))],
    "feed": [to_frame(Welcome(0, 4, WISHES)), to_frame(Ack(1, 0)), to_frame(Nack(0)), to_frame(Wish(None))],
    "publish": [to_frame(policy_message(1, b"weights"))],
    "status": [to_frame(Ask())],
}
EMPTY = ServerReport(TrainerReport(False, None), 0, SpoolReport(0, 0, 1000, False), ())
SAID_BY_SERVERS = {
    "samples": [
        to_frame(Welcome(0, 4, WISHES)),
        to_frame(Ack(1, 0)),
        to_frame(Nack(0)),
        to_frame(Wish(WISHES)),
    ],
    "policies": [to_frame(policy_message(1, b"weights")), to_frame(Policy(2, 5, b"damaged"))],
    "feed": [
        to_frame(Hello("spool", 1, 0)),
        put(RECORD, b"".join(skip_record("robot", 1, Skip(1, (5,))))),
        to_frame(Skip(2, (0,))),
    ],
    "publish": [to_frame(Ack(1, 1))],
    "status": [to_frame(Report(EMPTY.to_bytes()))],
}


def mutated(rng: random.Random, frame: bytes) -> bytes:
    """The frame with some bytes changed, cut off, added or repeated; or random bytes."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randint(0, 200))
    data = bytearray(frame)
    for _ in range(rng.randint(1, 3)):
        match rng.randrange(5):
            case 0 | 1 if data:
                data[rng.randrange(min(len(data), 64))] = rng.randrange(256)
            case 2 if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 3:
                del data[rng.randint(0, len(data)) :]
            case _:
                data += rng.randbytes(rng.randint(1, 8))
    return bytes(data)


@pytest.fixture
def watch(monkeypatch, caplog):
    """Fails when a task of the line dies, when a last resort catches something, or when memory grows."""
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.0005)
    monkeypatch.setattr(reconnect, "LONGEST_PAUSE_S", 0.001)
    caplog.set_level(logging.ERROR)
    unheard: list[dict] = []
    loop = background.loop()
    loop.call_soon_threadsafe(loop.set_exception_handler, lambda _, context: unheard.append(context))
    before = resident_bytes()
    yield
    loop.call_soon_threadsafe(loop.set_exception_handler, None)
    assert not unheard
    assert not [record for record in caplog.records if record.exc_info]
    assert resident_bytes() - before < GROWTH_BYTES


class Attack:
    """Sends mutated frames over any connection, and counts them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.n_frames = 0

    async def say(self, connection, frames: list[bytes]) -> None:
        """Says what is right for a while, and then one frame that is not."""
        hearing = asyncio.ensure_future(self._hear(connection))
        try:
            for frame in frames[: self.rng.randint(0, len(frames))]:
                await connection.send(frame)  # so far all is well
            await connection.send(mutated(self.rng, self.rng.choice(frames)))
            self.n_frames += 1
            await asyncio.wait([hearing], timeout=0.001)
        except (LineLostError, RefusedError):
            pass
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _hear(self, connection) -> None:
        """Until the other end refuses, or is gone."""
        while not isinstance(from_frame(await connection.receive()), Refuse):
            pass

    async def on(self, dialer, n_frames: int, services=SERVICES) -> None:
        """Dials a server, again and again."""
        while self.n_frames < n_frames:
            service = self.rng.choice(services)
            connection = await dialer.dial(service)
            try:
                await self.say(connection, SAID_BY_PEERS[service])
            finally:
                await connection.close()

    async def serve(self, service, connection) -> None:
        """Is the server."""
        await self.say(connection, SAID_BY_SERVERS[service])


def goes_on(server, line: WorkerLine, first: int) -> None:
    """What is sent from now on arrives."""
    with TrainerLine(server.loopback) as trainer:
        line.send(numbered(line.outbox.name, first, 10))
        buffer = Buffer()

        def have_come() -> bool:
            nonlocal buffer
            buffer += trainer.retrieve_buffer()
            return steps_of(buffer).get(line.outbox.name, [])[-10:] == list(range(first, first + 10))

        until(have_come)


@pytest.mark.parametrize("n_frames", N_FRAMES)
@pytest.mark.parametrize("service", SERVICES)
def test_a_server_stands_hostile_peers(watch, service, n_frames):
    with (
        Server(port=None, spool_bytes=10_000_000) as server,
        WorkerLine(server.loopback, ram_outbox("honest"), batch_s=0.01, close_s=0.1) as line,
    ):
        goes_on(server, line, 0)
        attack = Attack(seed=1)
        background.run(attack.on(server.loopback, n_frames, [service]), 7000)
        goes_on(server, line, 1000)
        assert report_of(server.loopback).spool.bytes <= 10_000_000


@pytest.mark.parametrize("n_frames", N_FRAMES)
def test_a_worker_stands_a_hostile_server(watch, n_frames):
    attack, hostile = Attack(seed=2), Loopback()
    background.run(hostile.start(attack.serve))
    line = WorkerLine(hostile, ram_outbox("robot"), batch_s=0.001, close_s=0.1)
    n_sent, deadline = 0, time.monotonic() + 7000
    while attack.n_frames < n_frames:
        assert time.monotonic() < deadline
        if line.outbox.next - line.outbox.settled < 100:
            line.send(numbered("robot", n_sent, 10))
            n_sent += 10
        line.receive(0.01, None)
    background.run(hostile.stop())
    with Server(port=None) as server:
        background.run(hostile.start(server._hub.serve))
        goes_on(server, line, n_sent + 1000)
        line.close()
        background.run(hostile.stop())


def unrefused(trainer: TrainerLine, server: Loopback) -> TrainerLine:
    """The trainer, after it took what came, or another in its place.

    A mutation may speak another version of the protocol: then the user is told, and begins anew.
    """
    try:
        trainer.retrieve_buffer()
    except RefusedError:
        trainer.close()
        return TrainerLine(server)
    return trainer


@pytest.mark.parametrize("n_frames", N_FRAMES)
def test_a_trainer_stands_a_hostile_server(watch, n_frames):
    attack, hostile = Attack(seed=3), Loopback()
    background.run(hostile.start(attack.serve))
    trainer = TrainerLine(hostile)
    deadline = time.monotonic() + 7000
    while attack.n_frames < n_frames:
        assert time.monotonic() < deadline
        trainer = unrefused(trainer, hostile)
        with trainer._lock:
            trainer._policy, trainer._unsent = b"weights", 1
        background.poke(trainer._has_policy)
        time.sleep(0.002)
    background.run(hostile.stop())
    trainer = unrefused(trainer, hostile)
    with Server(port=None) as server:
        background.run(hostile.start(server._hub.serve))
        with WorkerLine(server.loopback, ram_outbox("robot"), batch_s=0.01, close_s=0.1) as line:
            line.send(numbered("robot", 0, 10))
            until(lambda: trainer.retrieve_buffer() is not None and trainer.received_samples >= 10)
        trainer.close()
        background.run(hostile.stop())


def test_who_asks_a_hostile_server_how_it_stands_gets_an_answer_or_a_refusal(watch):
    attack, hostile = Attack(seed=4), Loopback()
    background.run(hostile.start(attack.serve))
    n_refused = 0
    for _ in range(500):
        try:
            report_of(hostile, 5.0)
        except (LineLostError, RefusedError, ProtocolError):
            n_refused += 1
    background.run(hostile.stop())
    assert n_refused > 100


def test_a_server_with_tls_stands_hostile_workers(tmp_path, watch):
    scene = Scene(tmp_path / "line")
    try:
        scene.goes_on()
        dialer = scene.dialer(scene.credential("robot"))
        attack = Attack(seed=5)
        background.run(attack.on(dialer, 400), 60)
        background.run(dialer.close())
        scene.goes_on()
    finally:
        scene.close()


def test_a_refusal_of_a_hostile_server_is_told_to_the_worker():
    async def refuse(_, connection):
        await connection.receive()
        await connection.send(to_frame(Refuse("go away", is_final=True)))

    hostile = Loopback()
    background.run(hostile.start(refuse))
    line = WorkerLine(hostile, ram_outbox("robot"), close_s=0.1)
    with pytest.raises(RefusedError, match="this process refuses: go away"):
        until(lambda: line.send(numbered("robot", 0, 1)))
    line.close()
    background.run(hostile.stop())
