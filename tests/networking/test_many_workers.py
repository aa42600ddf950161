"""Many workers at once, over TLS, with a server and every few hundred workers in processes of their own."""

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from networking.crowd import RATE, name_of
from networking.numbered import steps_of
from tmrl.memory import ReplayMemory
from tmrl.networking.authority import Authority
from tmrl.networking.connecting import connect_trainer

TESTS = Path(__file__).parents[1]
FILES_OF_A_WORKER = 4
"""Most that a process has open for one worker."""


def allow_open_files(count):
    """Raises the limit of open files, for this process and those it starts, as far as it may."""
    with suppress(ImportError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = max(soft, count if hard == resource.RLIM_INFINITY else min(count, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def started(stack, *command):
    """A process of this interpreter with pipes; it is killed if it outlives the test."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def cpu_s(process):
    """CPU seconds of a process so far; 0 where the system does not tell."""
    with suppress(OSError):
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


class Arrivals:
    """What has come of each worker; every step must come once, in its order, with its values."""

    def __init__(self):
        self.expected = {}

    def take(self, buffer):
        if not buffer.row_parts():
            for worker, steps in steps_of(buffer).items():
                self._take(worker, steps[0], steps)
            return
        for part in buffer.row_parts():
            assert not isinstance(part, list)
            self._take(part.chunk.stream.worker, part.chunk.first_step, part.chunk.rows["obs"][:, 0])

    def _take(self, worker, first, numbers):
        assert self.expected.get(worker, 0) == first, f"{worker} has a gap, or comes twice"
        assert list(numbers) == list(range(first, first + len(numbers)))
        self.expected[worker] = first + len(numbers)


@pytest.mark.parametrize(
    ("n_workers", "n_crowds", "seconds"),
    [(30, 1, 5), pytest.param(1000, 4, 60, marks=[pytest.mark.stress, pytest.mark.timeout(900)])],
)
def test_many_workers_lose_nothing_and_one_server_bears_them(tmp_path, n_workers, n_crowds, seconds):
    allow_open_files(FILES_OF_A_WORKER * n_workers + 256)
    authority = Authority.create(tmp_path / "line", ["127.0.0.1"])
    for number in range(n_workers):
        authority.add_worker(name_of(number))
    with ExitStack() as stack:
        options = ("--port", 0, "--credentials", authority.folder, "--spool", "ram", "--until-stdin-closes")
        server = started(stack, "-m", "tmrl", "server", *options)
        port = int(server.stdout.readline().partition("127.0.0.1:")[2].partition(",")[0])
        trainer = stack.enter_context(connect_trainer("127.0.0.1", port, authority.folder / "trainer.json"))
        trainer.attach(ReplayMemory(memory_size=1000, seed=0))
        trainer.retrieve_buffer()
        share = n_workers // n_crowds
        crowds = [
            started(stack, TESTS / "networking" / "crowd.py", authority.folder, port, first, share, seconds)
            for first in range(0, n_workers, share)
        ]
        for crowd in crowds:
            assert crowd.stdout.readline() == "ready\n"
        began_cpu = cpu_s(server)
        for crowd in crowds:
            crowd.stdin.write("go\n")
            crowd.stdin.flush()
        arrivals = retrieved(trainer, n_workers * seconds * RATE, seconds + 300)
        told = [json.loads(crowd.stdout.readline()) for crowd in crowds]
        spent_s = cpu_s(server) - began_cpu
    assert arrivals.expected == {name_of(number): seconds * RATE for number in range(n_workers)}
    print_result(told, spent_s)


def retrieved(trainer, n_samples, timeout_s):
    """Takes what comes until all of it has come, and what was acknowledged meanwhile is durable."""
    arrivals, deadline = Arrivals(), time.monotonic() + timeout_s
    while trainer.received_samples < n_samples:
        assert time.monotonic() < deadline, f"{trainer.received_samples} of {n_samples} samples came in time"
        buffer = trainer.retrieve_buffer()
        if len(buffer):
            arrivals.take(buffer)
        time.sleep(0.01)
    trainer.retrieve_buffer()
    return arrivals


def print_result(told, server_s):
    durations_ms = [duration for crowd in told for duration in crowd["durations_ms"]]
    cuts = statistics.quantiles(durations_ms, n=100)
    elapsed_s = max(crowd["elapsed_s"] for crowd in told)
    print(  # noqa: T201 - the numbers are what the long version is run for
        f"\nserver: {server_s:.1f} CPU s in {elapsed_s:.1f} s; workers: "
        f"{sum(crowd['cpu_s'] for crowd in told):.1f} CPU s; send to durable: median {cuts[49]:.0f} ms, "
        f"p99 {cuts[98]:.0f} ms, at most {max(durations_ms):.0f} ms"
    )
