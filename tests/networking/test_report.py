"""Reports: what comes back, what is refused, and how it looks."""

import asyncio
import io
import json
import socket
import time

import pytest
from rich.console import Console

from tmrl.errors import LineLostError, ProtocolError
from tmrl.networking import background
from tmrl.networking.grpc_transport import GrpcDialer
from tmrl.networking.messages import MAX_REPORT_BYTES, Report, to_frame
from tmrl.networking.report import ServerReport, SpoolReport, TrainerReport, WorkerReport
from tmrl.networking.server import Server
from tmrl.networking.status import report_of
from tmrl.networking.transport import Loopback
from tmrl.runs.status_table import print_status


def worker(name="robot", address="192.0.2.1:5000"):
    return WorkerReport(name, address is not None, address, 1.5, 20.0, 3, 4, 5, 600, 7, 8, 9)


def report(*workers):
    return ServerReport(TrainerReport(False, 5.0), 4, SpoolReport(1, 2, 3, True), workers)


def test_a_report_comes_back_as_it_was():
    for each in (report(), report(worker(), worker("other", None))):
        assert ServerReport.from_bytes(each.to_bytes()) == each
        assert ServerReport.from_bytes(memoryview(each.to_bytes())) == each


def test_a_report_on_very_many_workers_fits_the_line():
    many = report(*(worker("\U0001f916" * 60 + str(i)) for i in range(4096)))
    assert len(many.to_bytes()) < MAX_REPORT_BYTES
    hub_like = Loopback()

    async def serve(_, connection):
        await connection.receive()
        await connection.send(to_frame(Report(many.to_bytes())))
        await connection.receive()

    background.run(hub_like.start(serve))
    assert report_of(hub_like) == many
    background.run(hub_like.stop())


def test_what_a_later_version_adds_is_left_out():
    document = report(worker()).to_json() | {"weather": "fine"}
    document["spool"]["colour"] = "red"
    assert ServerReport.from_bytes(json.dumps(document).encode()) == report(worker())


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (["spool"], [], r"spool of a report must be an object, got \[\]"),
        (["spool", "bytes"], "much", "bytes of spool of a report must be a sensible int, got 'much'"),
        (["spool", "bytes"], True, "bytes of spool of a report must be a sensible int, got True"),
        (["spool", "bytes"], 1 << 64, "must be a sensible int"),
        (["policy_version"], -1, "policy_version of a report must be a sensible int, got -1"),
        (["trainer", "seen_s"], "now", r"seen_s of trainer of a report must be a sensible float \| None"),
        (["trainer", "is_connected"], 1, "is_connected of trainer of a report must be a sensible bool"),
        (["workers"], {}, "workers of a report must be a list, got {}"),
        (["workers"], [[]], r"a worker must be an object, got \[\]"),
        (["workers", 0, "seen_s"], float("inf"), "seen_s of a worker must be a sensible float, got inf"),
        (["workers", 0, "samples_per_s"], float("nan"), "must be a sensible float, got nan"),
        (["workers", 0, "name"], "a\x1b[31m", r"name of a worker must be a sensible str, got 'a\\x1b"),
        (["workers", 0, "name"], "x" * 5000, "name of a worker must be a sensible str"),
        (["workers", 0, "address"], 5, r"address of a worker must be a sensible str \| None, got 5"),
    ],
)
def test_what_is_not_what_it_should_be_is_told(path, value, reason):
    document = report(worker()).to_json()
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ProtocolError, match=reason):
        ServerReport.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize("path", [["trainer"], ["workers", 0, "lost"], ["spool", "max_bytes"]])
def test_what_is_missing_is_told(path):
    document = json.loads(report(worker()).to_bytes())
    place = document
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    with pytest.raises(
        ProtocolError, match=f"must say {path[-1]}, and does not; is the server of this version"
    ):
        ServerReport.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize("body", [b"", b"\xff", b"{", b"[" * 100_000, b"1" * 10_000])
def test_what_is_no_json_is_told(body):
    with pytest.raises(ProtocolError, match="a report must be JSON, and this is none"):
        ServerReport.from_bytes(body)


def test_what_is_too_long_is_told():
    with pytest.raises(ProtocolError, match="a report must be at most 8,388,608 bytes, got 8,388,609"):
        ServerReport.from_bytes(bytes(MAX_REPORT_BYTES + 1))


def test_names_are_printed_as_they_are():
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    print_status(console, "[::1]:5", report(worker("[red]x"), worker(":smile:", "[/]:5")))
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "server [::1]:5: 1 parcels wait on disk, 2 bytes of 3 bytes; policy 4"
    assert [line.split()[:2] for line in lines[3:]] == [["[red]x", "192.0.2.1"], [":smile:", "[/]"]]


def test_a_server_says_how_it_stands():
    with Server(port=None) as server:
        assert report_of(server.loopback).to_json() == server.report()


def test_who_gets_no_answer_is_told_within_the_time():
    async def say_nothing(_, connection):
        await asyncio.sleep(60)

    silent = Loopback()
    background.run(silent.start(say_nothing))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        for dialer in (silent, GrpcDialer("127.0.0.1", mute.getsockname()[1])):
            began_at = time.monotonic()
            with pytest.raises(LineLostError, match=r"did not answer within 0.3 s"):
                report_of(dialer, 0.3)
            assert time.monotonic() - began_at < 10
    background.run(silent.stop())
