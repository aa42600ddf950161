"""The processes of the line for its benchmark: a server, a trainer, workers, and what they say of themselves.

Each is a process of its own, started afresh, and told what to do over a pipe. The twins with pickles and a
plain socket do what the original's transport does, without its relay and without TLS.
"""

import pickle
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from bench_append import _stamped as stamped
from workloads import WORKLOADS, Leaf, Workload

from tmrl.memory import ReplayMemory
from tmrl.networking import Buffer, Server
from tmrl.networking.connecting import connect_trainer, connect_worker
from tmrl.networking.parcel import Encoder, Wishes
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.worker_line import WorkerLine

SAMPLES = 1_000
"""In a parcel."""
WINDOW = 8
"""Messages that a worker may have on their way."""
PATIENCE_S = 120.0
ROWS = {
    "98 bytes": WORKLOADS["W1"],
    "7 KB": Workload(
        "frames", "one frame of 84x84 bytes", (Leaf("uint8", (84, 84)),), Leaf("float32", (1,)), 4_000, 200
    ),
}
_SIZE = struct.Struct("<Q")
_CONTEXT = get_context("spawn")


@dataclass(frozen=True, slots=True)
class Line:
    """What all processes of one measurement know."""

    rows: str
    """Key of `ROWS`."""
    folder: Path
    """Of credentials."""
    packs: bool
    """Whether workers pack their Buffers, or send parcels made before."""
    spool: str | None
    """Folder of the spool; None is RAM."""
    serves: bool
    """Whether the trainer's process holds the server."""
    n_parcels: int
    """Of each worker."""

    @property
    def sample_bytes(self) -> int:
        return ROWS[self.rows].row.itemsize


class Crew:
    """Processes, each with a pipe."""

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self.pipes: list[Connection] = []

    def start(self, work: Any, *arguments: Any) -> Connection:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=work, args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        self._processes.append(process)
        self.pipes.append(ours)
        return ours

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in reversed(self.pipes):
            try:
                pipe.send("stop")
            except OSError:
                continue
        for process in reversed(self._processes):
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()


def answer(pipe: Connection) -> Any:
    """What a process says next; fails if it says nothing for long."""
    if not pipe.poll(PATIENCE_S):
        raise TimeoutError("a process of the benchmark said nothing for two minutes")
    return pipe.recv()


def cpu_s(pipe: Connection) -> float:
    """CPU seconds of a process so far, all its threads together."""
    pipe.send("cpu")
    return answer(pipe)


def _until_told(pipe: Connection, poll_s: float) -> bool:
    """Answers questions for a while; returns whether to go on."""
    while pipe.poll(poll_s):
        question = pipe.recv()
        if question == "stop":
            return False
        pipe.send(time.process_time())
        poll_s = 0
    return True


def serve(pipe: Connection, line: Line) -> None:
    """The server."""
    with Server(0, credentials=line.folder, spool=line.spool, window=WINDOW) as server:
        pipe.send(server.port)
        while _until_told(pipe, 1.0):
            pass


def train(pipe: Connection, line: Line, port: int) -> None:
    """A trainer that takes whatever comes; it holds the server where there is no other."""
    with _trainer_line(line, port) as (trainer, found_port):
        trainer.attach(ReplayMemory(memory_size=1_000, seed=0))
        trainer.retrieve_buffer()
        pipe.send(found_port)
        while _until_told(pipe, 0.0):
            if not len(trainer.retrieve_buffer()):
                time.sleep(0.001)
        print_refusals(trainer)


def print_refusals(trainer: TrainerLine) -> None:
    if trainer.refused:
        raise AssertionError(f"{trainer.refused} parcels could not be read")


@contextmanager
def _trainer_line(line: Line, port: int) -> Iterator[tuple[TrainerLine, int]]:
    if not line.serves:
        with connect_trainer("127.0.0.1", port, line.folder / "trainer.json") as trainer:
            yield trainer, port
        return
    with (
        Server(0, credentials=line.folder, spool=line.spool, window=WINDOW) as server,
        TrainerLine(server.loopback) as trainer,
    ):
        yield trainer, server.port or 0


def work(pipe: Connection, line: Line, name: str, port: int) -> None:
    """A worker: says when it is ready, sends when told to, and says when all of it is durable."""
    buffers = some_buffers(line.rows, name)
    parcels = [b"".join(Encoder(Wishes()).encode(buffer)) for buffer in buffers]
    with connect_worker(name, "127.0.0.1", port, line.folder / f"{name}.json") as worker:
        worker.send(buffers[0])
        _flush(worker)
        pipe.send("ready")
        pipe.recv()
        began = time.process_time()
        for number in range(line.n_parcels):
            if line.packs:
                worker.send(buffers[number % len(buffers)])
            else:
                worker.outbox.put([parcels[number % len(parcels)]])
                worker.flush(0)
        _flush(worker)
        pipe.send(time.process_time() - began)
        pipe.recv()


def _flush(worker: WorkerLine) -> None:
    if not worker.flush(PATIENCE_S):
        raise TimeoutError("not everything was durable in time")


def some_buffers(rows: str, worker: str, size: int = SAMPLES) -> list[Buffer]:
    """Four Buffers of a worker, to be sent again and again."""
    stream = stamped(ROWS[rows], worker, size)
    return [next(stream) for _ in range(4)]


def pickling_trainer(pipe: Connection, n_workers: int) -> None:
    """Takes pickled lists of tuples over plain sockets, and acknowledges each."""
    import selectors

    with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as ready:
        pipe.send(listener.getsockname()[1])
        for _ in range(n_workers):
            peer, _ = listener.accept()
            ready.register(peer, selectors.EVENT_READ)
        while _until_told(pipe, 0.0):
            for key, _ in ready.select(0.001):
                size = key.fileobj.recv(_SIZE.size, socket.MSG_WAITALL)  # type: ignore[union-attr]
                if not size:
                    ready.unregister(key.fileobj)
                    continue
                pickle.loads(_received(key.fileobj, *_SIZE.unpack(size)))
                key.fileobj.sendall(b"\0")  # type: ignore[union-attr]


def _received(peer: Any, size: int) -> bytearray:
    octets = bytearray(size)
    view = memoryview(octets)
    while view:
        view = view[peer.recv_into(view) :]
    return octets


def pickling_worker(pipe: Connection, line: Line, name: str, port: int) -> None:
    """Sends pickled lists of tuples, no more than the window at a time unacknowledged."""
    batches = [[tuple(sample) for sample in buffer.memory] for buffer in some_buffers(line.rows, name)]
    with socket.create_connection(("127.0.0.1", port)) as peer:
        pipe.send("ready")
        pipe.recv()
        began = time.process_time()
        in_flight = 0
        for number in range(line.n_parcels):
            octets = pickle.dumps(batches[number % len(batches)], protocol=pickle.HIGHEST_PROTOCOL)
            peer.sendall(_SIZE.pack(len(octets)))
            peer.sendall(octets)
            in_flight += 1
            while in_flight >= WINDOW:
                in_flight -= len(peer.recv(WINDOW))
        while in_flight:
            in_flight -= len(peer.recv(WINDOW))
        pipe.send(time.process_time() - began)
        pipe.recv()


def publish(pipe: Connection, line: Line, port: int, n_bytes: int) -> None:
    """A trainer that publishes a policy whenever it is told to, and says when it began to."""
    actor = policy(n_bytes)
    with connect_trainer("127.0.0.1", port, line.folder / "trainer.json") as trainer:
        trainer.retrieve_buffer()
        pipe.send("ready")
        while pipe.recv() != "stop":
            began = time.monotonic()
            trainer.broadcast_model(actor)
            pipe.send(began)
            trainer.retrieve_buffer()


def subscribe(pipe: Connection, line: Line, name: str, port: int, n_bytes: int) -> None:
    """A worker that says when each policy was loaded."""
    actor = policy(n_bytes)
    with connect_worker(name, "127.0.0.1", port, line.folder / f"{name}.json") as worker:
        pipe.send("ready")
        while True:
            if worker.receive(0.5, actor).n_policies:
                pipe.send(time.monotonic())
            if pipe.poll(0) and pipe.recv() == "stop":
                return


def policy(n_bytes: int) -> Any:
    """An actor with so many bytes of parameters."""
    import torch

    from tmrl.actor import TorchActorModule

    class Actor(TorchActorModule):
        def __init__(self) -> None:
            super().__init__(None, None)
            self.weights = torch.nn.Parameter(torch.zeros(n_bytes // 4))

        def act(self, obs: Any, test: bool = False) -> Any:  # noqa: ARG002
            return obs

    return Actor()


OUTBOX_BYTES = 1 << 22
"""Small beside the default of 1 GB, so that a benchmark fills it; an eighth of it is dropped at a time."""


def send_without_network(pipe: Connection, outbox: str, n_sends: int, samples: int = 20) -> None:
    """Sends small Buffers to nobody, into a full outbox that drops; says how long each `send` took."""
    buffers = some_buffers("98 bytes", "alone", samples)
    durations: list[float] = []
    with connect_worker(
        "alone", "127.0.0.1", 1, outbox=outbox, outbox_bytes=OUTBOX_BYTES, when_full="drop", close_s=0
    ) as worker:
        while not worker.outbox.dropped_samples:
            worker.send(buffers[0])
        for number in range(n_sends):
            began = time.perf_counter()
            worker.send(buffers[number % 4])
            durations.append(time.perf_counter() - began)
            time.sleep(0.002)
    pipe.send(durations)
    pipe.recv()
