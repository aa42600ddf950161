"""A server with TLS, an honest worker and a trainer, whom no attack may disturb."""

import asyncio
from contextlib import suppress
from pathlib import Path

from makers import parcel_of
from networking.numbered import numbered, ram_outbox, steps_of, until
from tmrl.buffer import Buffer
from tmrl.errors import LineLostError, ProtocolError, RefusedError
from tmrl.networking import background
from tmrl.networking.authority import Authority
from tmrl.networking.credentials import ClientCredential
from tmrl.networking.grpc_transport import GrpcDialer
from tmrl.networking.messages import Hello, Message, Refuse, from_frame, to_frame
from tmrl.networking.server import Server
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.worker_line import WorkerLine

TIMEOUT_S = 30.0


class Scene:
    """Everything honest; `goes_on` shows that it still works."""

    def __init__(self, folder: Path, **options) -> None:
        self.authority = Authority.create(folder, ["127.0.0.1"])
        self.server = Server(port=0, credentials=folder, **options)
        self.trainer = TrainerLine(self.dialer(ClientCredential.read(folder / "trainer.json")))
        self.honest = self.line("honest")
        self._n_sent = 0

    def credential(self, name: str) -> ClientCredential:
        """Of a worker, made when it is first asked for."""
        file = self.authority.folder / f"{name}.json"
        return ClientCredential.read(file if file.exists() else self.authority.add_worker(name))

    def dialer(self, credential: ClientCredential) -> GrpcDialer:
        return GrpcDialer("127.0.0.1", self.server.port, credential)

    def line(self, name: str) -> WorkerLine:
        return WorkerLine(self.dialer(self.credential(name)), ram_outbox(name), batch_s=0.01, close_s=0.1)

    def goes_on(self) -> None:
        """The honest worker's samples arrive, every one once and in order."""
        self.honest.send(numbered("honest", self._n_sent, 10))
        buffer = Buffer()

        def have_come() -> bool:
            nonlocal buffer
            buffer += self.trainer.retrieve_buffer()
            return len(steps_of(buffer).get("honest", ())) >= 10

        until(have_come)
        assert steps_of(buffer)["honest"] == list(range(self._n_sent, self._n_sent + 10))
        self._n_sent += 10

    def worker(self, name: str) -> dict:
        """What the server reports of a worker."""
        return next(worker for worker in self.server.report()["workers"] if worker["name"] == name)

    def close(self) -> None:
        for end in (self.honest, self.trainer, self.server):
            end.close()


def in_loop(work, timeout_s: float = TIMEOUT_S):
    return background.run(work, timeout_s)


def parcel(name: str, first: int = 0, n_samples: int = 1) -> bytes:
    """A parcel that a worker of this name would send."""
    return parcel_of(numbered(name, first, n_samples))


def hello(name: str, epoch: int = 1, first: int = 0) -> bytes:
    return to_frame(Hello(name, epoch, first))


async def answers(connection, wait_s: float = 2.0) -> list[Message]:
    """What is said until the end, or until nothing is said for so long."""
    heard = []
    with suppress(LineLostError, ProtocolError, RefusedError, TimeoutError):
        while True:
            async with asyncio.timeout(wait_s):
                heard.append(from_frame(await connection.receive()))
            if isinstance(heard[-1], Refuse):
                break
    return heard


async def talk(dialer, service: str, *frames: bytes, wait_s: float = 2.0) -> list[Message]:
    """Says some frames on a connection of its own; returns what came in return."""
    connection = await dialer.dial(service)
    try:
        with suppress(LineLostError, RefusedError):
            for frame in frames:
                await connection.send(frame)
        return await answers(connection, wait_s)
    finally:
        await connection.close()


def talk_as(scene: Scene, name: str, service: str, *frames: bytes, wait_s: float = 2.0) -> list[Message]:
    """As `talk`, with the certificate of a worker."""

    async def whole():
        dialer = scene.dialer(scene.credential(name))
        try:
            return await talk(dialer, service, *frames, wait_s=wait_s)
        finally:
            await dialer.close()

    return in_loop(whole())
