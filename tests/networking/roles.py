"""What the processes of the fault tests do: a worker, a server and a trainer, each over the real line.

Every sample says in its observation of which life of its worker it is, and which step of it.
"""

import errno
import itertools
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from networking.nursery import tell
from tmrl.buffer import Buffer
from tmrl.transition import Sample, Stamp

EPISODE = 7
"""Steps of an episode, its reset included."""
OUTBOX_BYTES = 40_000
"""So small that it is full at times."""
LIVES = 1000
"""More than a worker has; a life and a step make one number."""


def lived(worker: str, life: int, first: int, n_samples: int) -> Buffer:
    """Samples `first, first + 1, ...` of one life of a worker."""
    buffer = Buffer()
    for step in range(first, first + n_samples):
        episode, place = divmod(step, EPISODE)
        obs = np.array([life, step], np.int64)
        act = None if place == 0 else np.array([step], np.int64)
        values = (act, obs, float(step), place == EPISODE - 1, False, {})
        buffer.append_sample(Sample(values, Stamp(worker, life, step, episode, place)))
    return buffer


def work(
    name: str,
    life: int,
    port: int,
    outbox: str,
    when_full: str,
    stop: str,
    outbox_bytes: int = OUTBOX_BYTES,
    pause_s: float = 0.02,
    clock: int | None = None,
    disk_is_full: bool = False,
) -> None:
    """Sends numbered samples until it is told to stop, and then until all are safe."""
    from tmrl.errors import StorageError
    from tmrl.networking.connecting import outbox_of
    from tmrl.networking.grpc_transport import GrpcDialer
    from tmrl.networking.worker_line import WorkerLine

    rng = random.Random(f"{name} {life}")
    _jump_clock(clock)
    if disk_is_full:
        _fill_disk(stop, every=8)
    box = outbox_of(name, outbox, outbox_bytes, when_full)  # type: ignore[arg-type]
    tell("opened", box.next)
    line = WorkerLine(
        GrpcDialer("127.0.0.1", port), box, batch_s=rng.choice((0.0, 0.05)), batch_bytes=4096, close_s=0.0
    )
    step = 0
    while not Path(stop).exists():
        n = rng.randint(1, 20)
        tell("sending", step, n)
        while True:
            try:
                line.send(lived(name, life, step, n))
                break
            except StorageError as error:
                tell("refused", error)
                time.sleep(0.02)
        tell("sent", box.next)
        step += n
        time.sleep(rng.uniform(0.0, pause_s))
    tell("stopping")
    while not line.flush(1.0):
        tell("waiting", box.settled, box.next)
    tell("done", box.next, box.dropped_samples, box.noted_drops)
    line.close()


def _jump_clock(seed: int | None) -> None:
    """Lets the wall clock of this process jump back and forth; the monotonic one goes on."""
    if seed is None:
        return
    rng = random.Random(seed)
    time.time = lambda: rng.choice((0.0, 1e9, 2e9, 4e9)) + rng.random()  # type: ignore[assignment]
    time.time_ns = lambda: rng.choice((0, 10**18))  # type: ignore[assignment]


def _fill_disk(until: str, every: int) -> None:
    """Lets the disk of this process be full at every so many records, with half of one written."""
    count, writev = itertools.count(1), os.writev

    def full_at_times(descriptor: int, parts: Any) -> int:
        if next(count) % every < 2 and not Path(until).exists():
            octets = b"".join(parts)
            os.write(descriptor, octets[: len(octets) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return writev(descriptor, parts)

    os.writev = full_at_times  # type: ignore[assignment]


def serve(spool: str, clock: int | None = None, disk_is_full_until: str | None = None, port: int = 0) -> None:
    """The command `tmrl server`."""
    from tmrl import cli

    _jump_clock(clock)
    if disk_is_full_until is not None:
        _fill_disk(disk_is_full_until, every=30)
    cli.main(["server", "--port", str(port), "--spool", spool])


def command(folder: str, arguments: list[str]) -> None:
    """Any `tmrl` command, in a folder."""
    from tmrl import cli

    os.chdir(folder)
    cli.main(arguments)


def train(port: int, folder: str, seed: int, stop: str) -> None:
    """Keeps what comes in a memory, with a checkpoint now and then, and looks at what it draws."""
    from tmrl.datasets.files import read_manifest
    from tmrl.memory import ReplayMemory
    from tmrl.networking.grpc_transport import GrpcDialer
    from tmrl.networking.trainer_line import TrainerLine

    rng = random.Random(seed)
    line = TrainerLine(GrpcDialer("127.0.0.1", port))
    place = Path(folder)
    if (place / "manifest.json").exists():
        memory = ReplayMemory.load(place)
        line.restore(read_manifest(place)[0]["line"])
    else:
        memory = ReplayMemory(memory_size=200_000, batch_size=64, seed=seed)
    line.attach(memory)

    def save() -> None:
        state, stats = line.state(), memory.stats()
        memory.save(place, within={"kind": "checkpoint", "files": [], "counters": {}, "line": state})
        line.commit(state)
        skipped = sum(
            entry["skipped"] + entry["lost"] for epochs in state["ledger"].values() for entry in epochs
        )
        tell("saved", stats.appended, stats.duplicates, stats.gaps, skipped, line.refused)

    if memory.stats().appended == 0:
        line.state()  # from now on only a commit lets the server forget
    tell("begun", memory.stats().appended)
    while not Path(stop).exists():
        memory.append(line.retrieve_buffer())
        if len(memory):
            check_transitions(memory.sample())
        if rng.random() < 0.1 and memory.stats().appended:
            save()
        time.sleep(rng.uniform(0.0, 0.02))
    save()
    line.close()
    tell("done")


def check_transitions(batch: Any) -> None:
    """Every transition is two steps of one life that follow each other, in one episode."""
    prev_obs, act, rew, new_obs, terminated, _ = batch
    assert (prev_obs[:, 0] == new_obs[:, 0]).all(), "a transition joins two lives"
    assert (prev_obs[:, 1] + 1 == new_obs[:, 1]).all(), "a transition joins steps that do not follow"
    assert (new_obs[:, 1] % EPISODE != 0).all(), "a transition joins two episodes"
    assert (act[:, 0] == new_obs[:, 1]).all()
    assert (rew == new_obs[:, 1]).all()
    assert (terminated == (new_obs[:, 1] % EPISODE == EPISODE - 1)).all()


if __name__ == "__main__":
    sys.exit("these are roles for networking.nursery")
