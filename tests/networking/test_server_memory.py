"""The memory of a server in a process of its own, while a worker sends what it likes."""

import asyncio
import json
import subprocess
import sys
from contextlib import suppress

import grpc
import grpc.aio
import pytest

from networking.scene import answers, hello, in_loop, parcel, talk
from tmrl.errors import LineLostError, RefusedError
from tmrl.networking.fragments import PART_BYTES, messages_of
from tmrl.networking.grpc_transport import GrpcDialer
from tmrl.networking.messages import MAX_FRAME_BYTES, Message, Put, Refuse, to_frame

# `ru_maxrss` of a child begins with what its parent had.
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")

SPOOL_BYTES = 50_000_000
FEW = 28
"""Parts that gRPC may hold at a time, in pieces, joined and copied, where a machine is slow to read them."""
LARGE = 480 << 20
"""Bytes of a frame of more than twice as many."""
SERVE = f"""
import json, re, sys
from pathlib import Path
from tmrl.networking.server import Server

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

with Server(port=0, spool_bytes={SPOOL_BYTES}) as server:
    print(json.dumps([server.port, peak()]), flush=True)
    sys.stdin.read()
    print(json.dumps([server.report()["spool"]["bytes"], peak()]), flush=True)
"""


@pytest.fixture
def server():
    """A server process; `(port, end)`, where `end()` gives the bytes in its spool and how its memory grew."""
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            port, before = json.loads(process.stdout.readline())

            def end() -> tuple[int, int]:
                process.stdin.close()
                n_bytes, after = json.loads(process.stdout.readline())
                return n_bytes, after - before

            yield port, end
        finally:
            process.kill()


async def talk_over(port: int, service: str, *frames: bytes) -> list[Message]:
    dialer = GrpcDialer("127.0.0.1", port)
    try:
        return await talk(dialer, service, *frames)
    finally:
        await dialer.close()


async def send(port: int, name: str, frames: list[bytes], wait_s: float) -> None:
    dialer = GrpcDialer("127.0.0.1", port)
    connection = await dialer.dial("samples")
    try:
        with suppress(LineLostError, RefusedError):
            await connection.send(hello(name))
            for frame in frames:
                await connection.send(frame)
            await answers(connection, wait_s)
    finally:
        await dialer.close()


def test_a_worker_that_never_stops_fills_its_share_of_the_spool_and_no_more(server):
    port, end = server
    body = parcel("greedy", 0, 2000)
    frames = [to_frame(Put(number, (len(body),), 0, body)) for number in range(3 * SPOOL_BYTES // len(body))]
    with pytest.raises(TimeoutError):
        in_loop(send(port, "greedy", frames, 60.0), 4.0)
    n_bytes, growth = end()
    assert 0.6 * SPOOL_BYTES < n_bytes < 0.8 * SPOOL_BYTES
    assert growth < 2 * SPOOL_BYTES + (50 << 20)


def test_frames_of_the_greatest_size_that_are_nothing_leave_nothing_behind(server):
    port, end = server
    put = to_frame(Put(0, (MAX_FRAME_BYTES - 1000,)), [bytes(MAX_FRAME_BYTES - 1000)])
    for _ in range(2):
        in_loop(send(port, "mallory", [put], 2.0))
    n_bytes, growth = end()
    assert n_bytes == 0
    assert growth < MAX_FRAME_BYTES + FEW * PART_BYTES  # one at a time, held once: two would be more


@pytest.mark.parametrize("service", ["status", "policies", "feed"])
def test_a_large_frame_where_none_is_due_costs_nothing_and_is_refused_with_the_reason(server, service):
    port, end = server
    said = in_loop(talk_over(port, service, bytes(LARGE)))
    reason = f"a frame must be at most 1,048,580 bytes here, got one of {LARGE:,}"
    assert [message.reason for message in said if isinstance(message, Refuse)] == [reason]
    assert end()[1] < FEW * PART_BYTES


def test_a_large_message_of_a_peer_that_sends_no_parts_costs_nothing(server):
    port, end = server

    async def pour():
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            call = channel.stream_stream("/tmrl.Line/samples")()
            await call.wait_for_connection()
            await call.write(bytes(LARGE))
            return await call.code()

    assert in_loop(pour()) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert end()[1] < FEW * PART_BYTES


def test_announcements_cost_what_comes_with_them(server):
    port, end = server

    async def announce():
        dialer = GrpcDialer("127.0.0.1", port)
        try:
            for _ in range(16):
                connection = await dialer.dial("samples")
                await connection.send(hello("mallory"))
                await connection._call.write(next(messages_of(bytes(MAX_FRAME_BYTES))))
            await asyncio.sleep(0.3)
        finally:
            await dialer.close()

    in_loop(announce())
    assert end()[1] < 16 * 3 * PART_BYTES  # and not 16 times 256 MB


def test_floods_of_tiny_frames_and_unfinished_lines_leave_nothing_behind(server):
    port, end = server

    async def open_and_leave():
        for _ in range(300):
            dialer = GrpcDialer("127.0.0.1", port)
            connection = await dialer.dial("samples")
            with suppress(LineLostError):
                for _ in range(5):
                    await connection.send(hello("mallory")[:7])
            await dialer.close()

    in_loop(open_and_leave(), 60)
    n_bytes, growth = end()
    assert n_bytes == 0
    assert growth < 50 << 20
