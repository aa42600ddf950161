"""What becomes of a gRPC call whose channel is closed beside it: it is lost, and its line dials again."""

import asyncio
import socket
import time

import pytest

from networking.numbered import numbered, ram_outbox
from tmrl.errors import LineLostError
from tmrl.networking import background
from tmrl.networking.grpc_transport import GrpcDialer
from tmrl.networking.server import Server
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.worker_line import WorkerLine


@pytest.fixture
def server():
    with Server(port=0) as server:
        yield server


async def ends_lost(dialer, awaited):
    task = asyncio.ensure_future(awaited)
    await asyncio.sleep(0.2)
    await dialer.close()
    with pytest.raises(LineLostError, match=r"was closed at this end|cannot be reached"):
        await asyncio.wait_for(task, 5)


def test_a_dial_whose_channel_is_closed_is_lost_and_not_cancelled():
    """A task that is cancelled says nothing to anybody: its line would be dead for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dialer = GrpcDialer("127.0.0.1", silent.getsockname()[1])
        background.run(ends_lost(dialer, dialer.dial("samples")), 10)


def test_a_connection_whose_channel_is_closed_is_lost_and_not_cancelled(server):
    dialer = GrpcDialer("127.0.0.1", server.port)
    connection = background.run(dialer.dial("policies"), 10)
    background.run(ends_lost(dialer, connection.receive()), 10)


def test_a_dial_to_where_nobody_listens_is_lost_and_says_so():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(LineLostError, match=f"127.0.0.1:{port} cannot be reached: "):
        background.run(GrpcDialer("127.0.0.1", port).dial("samples"), 20)


def test_a_task_that_is_cancelled_while_it_dials_is_cancelled():
    async def cancelled(dialer):
        task = asyncio.ensure_future(dialer.dial("samples"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        await dialer.close()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        background.run(cancelled(GrpcDialer("127.0.0.1", silent.getsockname()[1])), 10)


def test_a_line_whose_channel_is_closed_time_and_again_comes_back(server):
    dialer = GrpcDialer("127.0.0.1", server.port)
    n_arrived, deadline = 0, time.monotonic() + 20
    with (
        TrainerLine(server.loopback) as trainer,
        WorkerLine(dialer, ram_outbox("a"), batch_s=0.01, close_s=0.1) as line,
    ):
        for turn in range(5):
            line.send(numbered("a", 10 * turn, 10))
            background.run(dialer.close(), 5)
        while n_arrived < 50:
            assert time.monotonic() < deadline, f"{n_arrived} of 50 samples came in time"
            n_arrived += len(trainer.retrieve_buffer())
            time.sleep(0.01)
        assert not any(task.done() for task in line._tasks)
