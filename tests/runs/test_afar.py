"""A run whose workers, server and trainer are processes of their own, through the commands, to the end.

B59: what works in a unit test must work through the real path too, worker, server, trainer and memory.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from networking.nursery import Child, Nursery
from tmrl.memory import ReplayMemory
from tmrl.networking.grpc_transport import GrpcDialer
from tmrl.networking.status import report_of
from tmrl.training import Checkpoint

pytestmark = pytest.mark.skipif(os.name == "nt", reason="fork and kill -9 are things of POSIX")

PRELOAD = (
    "tmrl.cli",
    "tmrl.runs.serving",
    "tmrl.runs.session",
    "tmrl.agents.sac",
    "gymnasium.envs.classic_control",
)
N_WORKERS = 4
SMALL = (
    "--warm-up",
    "200",
    "--batch-size",
    "16",
    "--target-return",
    "-1e6",
    "--checkpoint-interval-s",
    "0",  # after each update: so a test sees how far a run has come, also a fast one
)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery("networking.roles", tmp_path_factory.mktemp("told"), PRELOAD) as nursery:
        yield nursery


class Site:
    """The processes of one run."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._nursery = nursery
        self._children: list[Child] = []

    def start(self, *arguments: object) -> Child:
        words = list(map(str, arguments))
        child = self._nursery.start("command", folder=str(self.folder), arguments=words)
        self._children.append(child)
        return child

    def serve(self) -> Child:
        server = self.start("server", "--port", self.port)
        self.port = int(server.await_word("listening")[1].rstrip(",").rsplit(":", 1)[1])
        return server

    def work(self, index: int, steps_per_policy: float) -> Child:
        flags = ("--initial-steps", 150, "--steps-per-policy", steps_per_policy, "--crc-debug")
        place = ("--server", f"127.0.0.1:{self.port}", "--name", f"robot-{index}", "--seed", index)
        return self.start("worker", *place, *flags)

    def train(self, *flags: object) -> Child:
        return self.start("trainer", "--server", f"127.0.0.1:{self.port}", "--crc-debug", *flags)

    def updates(self) -> int:
        checkpoint = Checkpoint(self.folder / "runs" / "x" / "checkpoint")
        return checkpoint.counters()["total_updates"] if checkpoint.exists else 0

    def await_updates(self, n: int, trainer: Child, timeout_s: float = 120.0) -> None:
        def is_there() -> bool:
            assert not trainer.has_ended(), trainer.tail()
            return self.updates() >= n

        until(is_there, timeout_s)

    def close(self) -> None:
        for child in self._children:
            child.kill()


@pytest.fixture
def site(nursery: Nursery, tmp_path: Path) -> Iterator[Site]:
    site = Site(nursery, tmp_path)
    yield site
    site.close()


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def run_with_kills(site: Site, steps: int, *flags: object) -> dict:
    """Four workers, a server and a trainer; one of each is killed with -9 on the way, and comes again."""
    server = site.serve()
    per_policy = 50 / N_WORKERS + 2
    workers = [site.work(index, per_policy) for index in range(N_WORKERS)]
    trainer = site.train(*SMALL, "--steps", steps, "--name", "x", *flags)
    site.await_updates(50, trainer)
    workers[0].kill()
    workers[0] = site.work(0, per_policy)
    site.await_updates(site.updates() + 50, trainer)
    server.kill()
    time.sleep(0.2)
    server = site.serve()
    site.await_updates(site.updates() + 50, trainer)
    trainer.kill()
    goes_on = site.updates()
    trainer = site.start("trainer", "--resume", "runs/x")
    until(trainer.has_ended, 1200)
    assert f"runs/x goes on after {goes_on:,} updates" in trainer.file.read_text(), trainer.tail()
    summary = json.loads((site.folder / "runs" / "x" / "summary.json").read_text())
    for child in (*workers, server):
        assert not child.has_ended(), child.tail()
    return summary


def check_nothing_is_lost(site: Site, summary: dict) -> None:
    """Every stream is whole from its first step on, nothing is there twice, and every checksum was right."""
    memory = ReplayMemory.load(site.folder / "runs" / "x" / "checkpoint")
    stats = memory.stats()
    assert set(stats.workers) == {f"robot-{index}" for index in range(N_WORKERS)}
    assert (stats.gaps, stats.duplicates, stats.refused) == (0, 0, 0)
    assert stats.appended == summary["env_steps"]
    assert summary["memory"]["crc_checked"] == summary["memory"]["draws"] > 0
    report = report_of(GrpcDialer("127.0.0.1", site.port))
    assert sum(worker.samples for worker in report.workers) >= stats.appended
    assert [(worker.lost, worker.skipped) for worker in report.workers] == [(0, 0)] * N_WORKERS


@pytest.mark.timeout(280)
def test_a_run_in_which_each_process_is_killed_ends_with_nothing_lost_and_nothing_doubled(site: Site) -> None:
    """B59, B42; with checksums of every transition drawn."""
    summary = run_with_kills(site, 600)
    assert summary["updates"] == 400
    check_nothing_is_lost(site, summary)


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_a_run_in_which_each_process_is_killed_learns_as_any_other(site: Site) -> None:
    summary = run_with_kills(site, 8000, "--warm-up", 500, "--batch-size", 256, "--target-return", -250)
    check_nothing_is_lost(site, summary)
    assert summary["test_return_mean"] > -250


# What `tmrl train --workers` leaves behind: nothing.


def children_of(pid: int) -> list[int]:
    """Processes that one has started."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(status.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def port_of(pid: int) -> int:
    """Of the server that a worker was told to go to."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return int(words[words.index("--server") + 1].rsplit(":", 1)[1])


def listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.timeout(280)
def test_a_run_with_workers_that_is_ended_leaves_no_process_and_no_port(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "tmrl", "train", "--workers", "4", "--name", "x", "--crc-debug", *SMALL]
    children: list[int] = []
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as run:
        try:
            checkpoint = Checkpoint(tmp_path / "runs" / "x" / "checkpoint")
            until(lambda: checkpoint.exists and checkpoint.counters()["total_updates"] > 0, 200)
            children = children_of(run.pid)
            port = port_of(children[0])
            assert len(children) == 4
            assert listens(port)
            run.send_signal(number)
            run.wait(60)
            until(lambda: not any(map(is_alive, children)), 20)
            assert not listens(port)
        finally:
            run.kill()
            for pid in filter(is_alive, children):
                os.kill(pid, signal.SIGKILL)
    before = checkpoint.counters()["total_updates"]
    assert before > 0
    if number == signal.SIGINT:
        assert run.returncode == 130
        summary = json.loads((tmp_path / "runs" / "x" / "summary.json").read_text())
        assert (summary["interrupted"], summary["updates"]) == (True, before)
