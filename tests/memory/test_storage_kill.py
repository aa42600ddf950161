"""A process that writes a memory in a folder is killed, at random and at every named point of the write path.

After each kill the folder is opened: it opens, nothing that was acknowledged is missing, no row is torn, no
transition is made up. One process imports everything and forks a child for each kill.
"""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tmrl.memory import Mixture, ReplayMemory

CAPACITY = 300

# Reads lines "folder keep first_step point count" and answers each with the steps that were acknowledged.
PARENT = """
import os, signal, sys
from pathlib import Path

import numpy as np

from tmrl.datasets import files
from tmrl.datasets import row_file, stored_ring
from tmrl.memory import Mixture, ReplayMemory, ring, snapshot, storage, store
from tmrl.networking import Buffer
from tmrl.transition import Sample, Stamp

POINTS = {
    "begin": (stored_ring.StoredRing, "begin"), "commit": (stored_ring.StoredRing, "commit"),
    "put links": (stored_ring, "put"), "put rows": (ring, "put"), "write one": (ring.Ring, "write_one"),
    "manifest": (storage.Storage, "commit"), "replace": (Path, "replace"), "sync": (files, "sync"),
    "sync folder": (files, "sync_folder"), "remove": (storage, "remove_others"),
    "create": (row_file.RowFile, "create"), "copy links": (stored_ring.StoredRing, "copy_links"),
    "sync rows": (row_file.RowFile, "sync"), "announce": (storage.Storage, "announce"),
    "repair": (stored_ring.StoredRing, "repair"), "segment": (snapshot, "write_array"),
}

def die_at(owner, name, count, is_before):
    original = getattr(owner, name)
    calls = 0
    def dying(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count and is_before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, dying)

def sample(i):
    lap, place = divmod(i, 120)  # three workers take turns of forty steps; the last one demonstrates
    worker, step = place // 40, lap * 40 + place % 40
    episode, episode_step = divmod(step, 30)
    obs = np.full(8, i, np.int64)
    values = (None if episode_step == 0 else obs, obs, float(i), episode_step == 29, False, {})
    source = "demo" if worker == 2 else "online"
    return Sample(values, Stamp(f"w{worker}", 1, step, episode, episode_step, source))

def live(folder, keep, i):
    sizes = (300, 330)
    kept = {"demo": keep} if keep else None
    sampler = Mixture({"online": 1, "demo": 1}, empty="others", keep=kept)
    memory = ReplayMemory(memory_size=300, batch_size=8, seed=0, storage_path=folder, sampler=sampler)
    for turn in range(200):
        n = (1, 1, 3, 40, 1, 80)[turn % 6] if i else 6
        buffer = Buffer()
        buffer.memory = [sample(i + k) for k in range(n)]
        memory.append(buffer)
        i += n
        print(i, flush=True)
        memory.sample()
        if turn % 5 == 4:
            memory.flush()
        if turn % 7 == 6:
            memory.memory_size = sizes[turn % 2]
        if turn % 11 == 10:
            memory.save(folder.with_name("saved"))
    os.kill(os.getpid(), signal.SIGKILL)  # the point was not passed so often

for line in sys.stdin:
    folder, keep, i, point, count = line.rsplit(" ", 4)
    pid = os.fork()
    if pid == 0:
        try:
            if point != "-":
                name, _, when = point.replace("_", " ").rpartition(" ")
                die_at(*POINTS[name], int(count), when == "before")
            live(Path(folder), int(keep), int(i))
        finally:
            os._exit(1)
    print("pid", pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print("killed" if os.WIFSIGNALED(status) else "failed", flush=True)
"""
POINTS = [
    f"{point}_{when}"
    for point in (
        *("begin", "commit", "put_links", "put_rows", "write_one", "manifest", "replace", "sync"),
        *("sync_folder", "remove", "create", "copy_links", "sync_rows", "announce", "repair", "segment"),
    )
    for when in ("before", "after")
]


class Killer:
    """The process that forks children which write, and die."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder: Path, keep: int, first: int, point: str, count: int, after_s: float) -> int:
        """One life; returns the number of the sample after the last one that was acknowledged."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{folder} {keep} {first} {point} {count}\n")
        self.process.stdin.flush()
        acknowledged = first
        for line in self.process.stdout:
            word, _, number = line.partition(" ")
            if word == "pid" and point == "-":
                time.sleep(after_s)
                subprocess.run(["kill", "-9", number.strip()], check=True)
            elif word.strip() == "killed":
                return acknowledged
            elif word.strip() == "failed":
                break
            elif word.strip().isdigit():
                acknowledged = max(acknowledged, int(word))
        raise AssertionError(f"the child ended by itself at {point}")


@pytest.fixture
def killer() -> Iterator[Killer]:
    killer = Killer()
    yield killer
    killer.process.kill()
    killer.process.communicate()


def check(memory: ReplayMemory, keep: int, acknowledged: int) -> int:
    """Looks at all that is there; returns the number of the first sample that is not."""
    stats = memory.stats()
    assert stats.damaged == 0
    assert stats.duplicates == stats.gaps == stats.refused == 0
    assert stats.appended >= acknowledged
    numbers: list[int] = []
    for index in range(len(memory)):
        prev_obs, act, rew, obs, terminated, _, _ = memory.get_transition(index)
        i = int(obs[0])
        assert (obs == i).all()
        assert (prev_obs == before(i)).all()
        assert (act == i).all()
        assert rew == np.float32(i)
        assert terminated == (episode_step(i) == 29)
        numbers.append(i)
    # Every transition between the oldest and the newest row of each ring is there, each once.
    assert stats.rows >= min(acknowledged, CAPACITY + 1) - 80  # at most the rows being written are emptied
    expected: list[int] = []
    for sources in (("online",), ("demo",)) if keep else (("online", "demo"),):
        of_ring = [i for i in range(stats.appended) if source(i) in sources]
        held = of_ring[-sum(stats.sources[source].rows for source in sources) :]
        expected += [i for i in held if episode_step(i) and before(i) in held]
    assert numbers == expected
    return stats.appended


def source(i: int) -> str:
    return "demo" if i % 120 // 40 == 2 else "online"


def before(i: int) -> int:
    """The sample that comes before a sample in its stream."""
    return i - 1 if i % 40 else i - 81


def episode_step(i: int) -> int:
    return (i // 120 * 40 + i % 40) % 30


def kill_and_check(
    killer: Killer, folder: Path, at_points: list[str], at_random: int, latest: int, keep: int = 0
) -> None:
    """One life after the other; each is killed at one of the first `latest` passes of its point.

    With `keep`, rings change their sizes whenever the folder is opened.
    """
    rng = random.Random(latest)
    first = killer.run(folder, keep, 0, "announce_before", 60, 0.0)
    assert first > 2 * CAPACITY  # from now on rows are overwritten
    shares = {"online": 1, "demo": 1}
    for life, point in enumerate([*at_points, *["-"] * at_random]):
        now = keep + life % 3 if keep else 0
        acknowledged = killer.run(folder, now, first, point, rng.randrange(1, latest), rng.uniform(0.0, 0.2))
        sampler = Mixture(shares, empty="others", keep={"demo": keep} if keep else None)
        with ReplayMemory(memory_size=CAPACITY, seed=0, sampler=sampler, storage_path=folder) as memory:
            first = check(memory, keep, acknowledged)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a thing of POSIX")
def test_thirty_kills_lose_nothing_that_was_acknowledged(killer: Killer, tmp_path: Path) -> None:
    kill_and_check(killer, tmp_path / "memory", POINTS, at_random=5, latest=4)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a thing of POSIX")
def test_thirty_kills_lose_nothing_of_any_ring(killer: Killer, tmp_path: Path) -> None:
    kill_and_check(killer, tmp_path / "memory", POINTS, at_random=5, latest=4, keep=100)


@pytest.mark.stress
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("keep", [0, 100])
def test_a_thousand_kills_lose_nothing_that_was_acknowledged(
    keep: int, killer: Killer, tmp_path: Path
) -> None:
    n_random = 1000 - 16 * len(POINTS)
    kill_and_check(killer, tmp_path / "memory", POINTS * 16, n_random, latest=30, keep=keep)
