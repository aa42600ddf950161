"""A crowd: many workers in one process, each with a line of its own, all of them in one event loop.

    crowd.py CREDENTIALS PORT FIRST COUNT SECONDS

Each worker sends `RATE` numbered samples once a second. The process ends when all of them are durable, and
then prints, as JSON, how many milliseconds each Buffer took from `send` until then, and its CPU seconds.
"""

import json
import sys
import time
from collections import deque
from pathlib import Path

from networking.numbered import numbered, until
from tmrl.networking.connecting import dialer_of
from tmrl.networking.delivery import Outbox
from tmrl.networking.record_log import RamLog
from tmrl.networking.worker_line import WorkerLine

RATE = 20
"""Samples of a worker in a second, which travel in one parcel."""
CONNECT_S = 120.0
FLUSH_S = 300.0


class TimedOutbox(Outbox):
    """Notes how long each parcel took to become durable."""

    def __init__(self, name):
        super().__init__(name, RamLog(1 << 22))
        self.durations_s = []
        self._waiting = deque()

    def put(self, parts):
        began = time.monotonic()
        number = super().put(parts)
        self._waiting.append((number, began))
        return number

    def settle(self, durable):
        super().settle(durable)
        while self._waiting and self._waiting[0][0] < self.settled:
            self.durations_s.append(time.monotonic() - self._waiting.popleft()[1])


def name_of(number):
    return f"worker-{number}"


def connected(credentials, port, numbers):
    """Lines of so many workers; each sends at once, as its samples come in parcels of a second already."""
    lines = []
    for name in map(name_of, numbers):
        dialer = dialer_of("127.0.0.1", port, credentials / f"{name}.json")
        lines.append(WorkerLine(dialer, TimedOutbox(name), batch_s=0.01, close_s=FLUSH_S))
    until(lambda: all(line._heard_at for line in lines), CONNECT_S)
    return lines


def work(lines, seconds):
    """Sends in the name of all workers, one after the other within each second."""
    began = time.monotonic()
    for second in range(seconds):
        for place, line in enumerate(lines):
            time.sleep(max(0.0, began + second + place / len(lines) - time.monotonic()))
            line.send(numbered(line.outbox.name, second * RATE, RATE))


def main():
    credentials, (port, first, count, seconds) = Path(sys.argv[1]), map(int, sys.argv[2:])
    lines = connected(credentials, port, range(first, first + count))
    print("ready", flush=True)  # noqa: T201 - for the test
    sys.stdin.readline()
    began, began_cpu = time.monotonic(), time.process_time()
    work(lines, seconds)
    assert all(line.flush(FLUSH_S) for line in lines), "not everything was durable in time"
    elapsed_s, cpu_s = time.monotonic() - began, time.process_time() - began_cpu
    for line in lines:
        line.close()
    durations_ms = [round(1000 * duration_s, 1) for line in lines for duration_s in line.outbox.durations_s]
    told = {"durations_ms": durations_ms, "elapsed_s": elapsed_s, "cpu_s": cpu_s}
    print(json.dumps(told), flush=True)  # noqa: T201 - for the test


if __name__ == "__main__":
    main()
