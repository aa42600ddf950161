"""A process that writes a log on disk is killed, at random and at every named point of the write path.

After each kill the log is opened: every record that was acknowledged is there, none is torn, no number is
left out or given twice. One process imports everything and forks a child for each kill.
"""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tmrl.networking.disk_log import DiskLog

MAX_BYTES, SEGMENT_BYTES = 200_000, 10_000

# Reads lines "folder point count"; each child tells what it is about to do, and what it has done.
PARENT = """
import os, random, signal, sys
from pathlib import Path

from tmrl.networking import disk_log, record_file
from tmrl.networking.disk_log import DiskLog

MAX_BYTES, SEGMENT_BYTES = map(int, sys.argv[1:])
POINTS = {
    "append": (record_file.RecordFile, "append"), "write": (record_file, "_write"),
    "writev": (os, "writev"), "open": (record_file.RecordFile, "open"),
    "cut": (record_file.RecordFile, "cut_back"), "sync": (record_file.RecordFile, "sync"),
    "begin": (DiskLog, "_begin_segment"), "drop": (DiskLog, "_drop_segments"),
    "names": (disk_log, "sync_folder"), "unlink": (Path, "unlink"), "survey": (DiskLog, "_survey"),
    "note": (disk_log, "replace_manifest"), "replace": (Path, "replace"), "close": (DiskLog, "close"),
}

def tell(word, number):
    os.write(1, f"{word} {number}\\n".encode())  # in one piece, or not at all

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(owner, name, count, is_before):
    original = getattr(owner, name)
    calls = 0
    def dying(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count and is_before:
            die()
        result = original(*args, **kwargs)
        if calls == count:
            die()
        return result
    setattr(owner, name, dying)

def die_torn(count):
    calls = 0
    writev = os.writev
    def tearing(descriptor, parts):
        nonlocal calls
        calls += 1
        if calls == count:
            octets = b"".join(parts)
            os.write(descriptor, octets[:random.randrange(len(octets))])
            die()
        return writev(descriptor, parts)
    os.writev = tearing

def payload(number):
    rng = random.Random(number)
    return rng.randbytes(rng.choice((0, 10, 300, 3000)))

def live(folder):
    log = DiskLog(folder, MAX_BYTES, SEGMENT_BYTES)
    for turn in range(400):
        number = log.append([payload(log.next)])
        tell("appended", number)
        if turn % 6 == 5:
            before = log.next if turn % 36 == 35 else max(0, log.next - 40)
            tell("forgetting", before)
            log.forget(before)
        if turn % 9 == 8:
            tell("synced", log.sync())
        if turn % 20 == 19:
            tell("noting", number)
            log.note({"number": number})
            tell("noted", number)
        if turn % 50 == 49:
            log.close()
            log = DiskLog(folder, MAX_BYTES, SEGMENT_BYTES)
    die()  # the point was not passed so often

for line in sys.stdin:
    folder, point, count = line.rsplit(" ", 2)
    pid = os.fork()
    if pid == 0:
        try:
            name, _, when = point.partition("_")
            if name == "torn":
                die_torn(int(count))
            elif name != "-":
                die_at(*POINTS[name], int(count), when == "before")
            live(Path(folder))
        finally:
            os._exit(1)
    tell("pid", pid)
    _, status = os.waitpid(pid, 0)
    tell("killed" if os.WIFSIGNALED(status) else "failed", 0)
"""
POINTS = [
    "torn",
    *(
        f"{point}_{when}"
        for point in (
            *("append", "write", "writev", "open", "cut", "sync", "begin", "drop", "names", "unlink"),
            *("survey", "note", "replace", "close"),
        )
        for when in ("before", "after")
    ),
]


@dataclass
class Told:
    """What a child said before it was killed."""

    next: int = 0
    forgotten: int = 0
    noting: int | None = None
    noted: int | None = None


class Killer:
    """The process that forks children which write, and die."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", PARENT, str(MAX_BYTES), str(SEGMENT_BYTES)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, folder: Path, point: str, count: int, after_s: float, told: Told) -> None:
        """One life; `told` is brought up to date."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{folder} {point} {count}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            word, number = line.split()
            if word == "pid" and point == "-":
                time.sleep(after_s)
                subprocess.run(["kill", "-9", number], check=False)  # it may have ended by now
            elif word == "appended":
                assert int(number) >= told.next
                told.next = int(number) + 1
            elif word == "forgetting":
                told.forgotten = max(told.forgotten, int(number))
            elif word in {"noting", "noted"}:
                setattr(told, word, int(number))
            elif word == "killed":
                return
            elif word == "failed":
                break
        raise AssertionError(f"the child ended by itself at {point}")


@pytest.fixture
def killer() -> Iterator[Killer]:
    killer = Killer()
    yield killer
    killer.process.kill()
    killer.process.communicate()


def payload(number: int) -> bytes:
    rng = random.Random(number)
    return rng.randbytes(rng.choice((0, 10, 300, 3000)))


def check(log: DiskLog, told: Told) -> None:
    """Looks at all that is there; one more record than was acknowledged may be."""
    assert log.damaged == ()
    assert told.next <= log.next <= told.next + 1
    assert log.first <= told.forgotten
    assert log.noted in [{} if n is None else {"number": n} for n in (told.noted, told.noting)]
    start = log.first
    while start < log.next:
        for found in log.read(start, 5000):
            assert found == payload(start)
            start += 1
    assert start == log.next


def kill_and_check(killer: Killer, folder: Path, at_points: list[str], at_random: int, latest: int) -> None:
    """One life after the other; each is killed at one of the first `latest` passes of its point."""
    rng = random.Random(latest)
    told = Told()
    torn = 0
    for point in [*at_points, *["-"] * at_random]:
        killer.run(folder, point, rng.randrange(1, latest), rng.uniform(0.0, 0.1), told)
        with DiskLog(folder, MAX_BYTES, SEGMENT_BYTES) as log:
            check(log, told)
            told.next, told.noted = log.next, log.noted.get("number")
            torn += log.cut_bytes > 0
    assert torn > 0
    assert told.next > 100


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a thing of POSIX")
def test_thirty_kills_lose_nothing_that_was_acknowledged(killer: Killer, tmp_path: Path) -> None:
    kill_and_check(killer, tmp_path / "log", ["torn", *POINTS], at_random=5, latest=12)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a thing of POSIX")
def test_a_kill_while_a_log_is_made_leaves_one_that_opens(killer: Killer, tmp_path: Path) -> None:
    for point in POINTS:
        told = Told()
        killer.run(tmp_path / point, point, 1, 0.0, told)
        with DiskLog(tmp_path / point, MAX_BYTES, SEGMENT_BYTES) as log:
            check(log, told)


@pytest.mark.stress
@pytest.mark.timeout(7200)
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a thing of POSIX")
def test_five_hundred_kills_lose_nothing_that_was_acknowledged(killer: Killer, tmp_path: Path) -> None:
    kill_and_check(killer, tmp_path / "log", POINTS * 12, at_random=500 - 12 * len(POINTS), latest=60)
