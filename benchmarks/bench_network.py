"""The line from workers to the trainer: how much gets through, at what price, and how soon.

Two worker processes, one server and one trainer, all on this machine, over TLS; a sample counts when its
worker knows it to be durable at the other end. `python benchmarks/bench_network.py` runs this part alone.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from line_processes import (
    SAMPLES,
    Crew,
    Line,
    answer,
    cpu_s,
    pickling_trainer,
    pickling_worker,
    publish,
    send_without_network,
    serve,
    subscribe,
    train,
    work,
)

WORKERS = ("one", "two")
PICKLES = "pickled lists over plain TCP"
POLICY_BYTES = 16_000_000
PARCELS = {"98 bytes": 3_000, "7 KB": 120}
SHM = Path("/dev/shm")
"""A file system in memory, where Linux has one: a spool there costs what files cost, and no disk."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one measurement found."""

    samples_per_s: float
    cpu_s_per_gb: dict[str, float]
    """Workers, server, trainer: CPU seconds for each GB of rows."""


@dataclass(frozen=True, slots=True)
class NetworkResults:
    """Everything about the line."""

    throughput: dict[str, dict[str, Throughput]]
    """Row to what was sent and how to what was found."""
    policy_s: float
    """Median seconds from `broadcast_model` to the worker's loaded actor."""
    send_s: dict[str, float]
    """Outbox to the 99th percentile of seconds of `send` with no network."""


def measure(*, is_quick: bool = False) -> NetworkResults:
    """Everything about the line; takes about two minutes."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        _make_credentials(Path(folder) / "line")
        throughput = {rows: _measure_rows(rows, Path(folder), is_quick) for rows in PARCELS}
        line = Line("98 bytes", Path(folder) / "line", False, None, False, 0)
        return NetworkResults(
            throughput, _measure_policy(line, 3 if is_quick else 9), _measure_send(Path(folder), is_quick)
        )


def _make_credentials(folder: Path) -> None:
    from tmrl.networking.authority import Authority

    authority = Authority.create(folder, ["127.0.0.1"])
    for name in WORKERS:
        authority.add_worker(name)


def _measure_rows(rows: str, folder: Path, is_quick: bool) -> dict[str, Throughput]:
    plain = Line(rows, folder / "line", False, None, False, PARCELS[rows] // (10 if is_quick else 1))
    kinds = {
        "parcels": plain,
        "parcels, server in the trainer's process": replace(plain, serves=True),
        "parcels, spool on the disk": replace(plain, spool=str(folder / f"spool {rows}")),
        "Buffers": replace(plain, packs=True),
        "Buffers, server in the trainer's process": replace(plain, packs=True, serves=True),
    }
    found = {name: measure_line(line) for name, line in kinds.items()}
    if SHM.is_dir():
        with tempfile.TemporaryDirectory(prefix="bench", dir=SHM) as spool:
            found["parcels, spool in files in memory"] = measure_line(replace(plain, spool=spool))
    found[PICKLES] = measure_pickles(replace(plain, n_parcels=max(10, plain.n_parcels // 10)))
    return found


def measure_line(line: Line) -> Throughput:
    """Sends all parcels of both workers, until they are durable."""
    with Crew() as crew:
        server = None if line.serves else crew.start(serve, line)
        port = 0 if server is None else answer(server)
        trainer = crew.start(train, line, port)
        port = answer(trainer)
        workers = [crew.start(work, line, name, port) for name in WORKERS]
        return _timed(line, server, trainer, workers)


def measure_pickles(line: Line) -> Throughput:
    """The same samples as pickled lists of tuples over plain TCP, straight to the trainer."""
    with Crew() as crew:
        trainer = crew.start(pickling_trainer, len(WORKERS))
        port = answer(trainer)
        workers = [crew.start(pickling_worker, line, name, port) for name in WORKERS]
        return _timed(line, None, trainer, workers)


def _timed(line: Line, server: Any, trainer: Any, workers: list[Any]) -> Throughput:
    for worker in workers:
        answer(worker)
    others = {name: pipe for name, pipe in (("server", server), ("trainer", trainer)) if pipe is not None}
    before = {name: cpu_s(pipe) for name, pipe in others.items()}
    began = perf_counter()
    for worker in workers:
        worker.send("go")
    spent = {"workers": sum(answer(worker) for worker in workers)}
    elapsed_s = perf_counter() - began
    spent |= {name: cpu_s(pipe) - before[name] for name, pipe in others.items()}
    n_samples = line.n_parcels * SAMPLES * len(workers)
    gb = n_samples * line.sample_bytes / 1e9
    return Throughput(n_samples / elapsed_s, {name: seconds / gb for name, seconds in spent.items()})


def _measure_policy(line: Line, n_policies: int) -> float:
    with Crew() as crew:
        port = answer(crew.start(serve, line))
        worker = crew.start(subscribe, line, WORKERS[0], port, POLICY_BYTES)
        trainer = crew.start(publish, line, port, POLICY_BYTES)
        answer(worker)
        answer(trainer)
        durations: list[float] = []
        for _ in range(n_policies + 1):
            trainer.send("publish")
            began = answer(trainer)
            durations.append(answer(worker) - began)
        return float(np.median(durations[1:]))


def _measure_send(folder: Path, is_quick: bool) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for name, outbox in (("RAM", "ram"), ("disk", str(folder / "outbox"))):
        with Crew() as crew:
            durations = answer(crew.start(send_without_network, outbox, 200 if is_quick else 4_000))
            seconds[name] = float(np.percentile(durations, 99))
    return seconds


def main() -> None:
    import argparse

    from network_report import goals, section

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few parcels")
    results = measure(is_quick=parser.parse_args().quick)
    print("\n".join([*section(results), *map(str, goals(results))]))


if __name__ == "__main__":
    main()
