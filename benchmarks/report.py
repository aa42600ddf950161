"""docs/benchmarks.md: the numbers of one run, and the ratios to reach, a miss shown like a hit."""

from collections.abc import Iterator
from dataclasses import dataclass

import network_report
from bench_storage import PICKLING, TORCHRL
from limit import LIMIT
from results import Results
from workloads import WORKLOADS

OURS = "tmrl"
SHARE_OF_FASTEST_PEER = {"W1": 0.40, "W2": 0.75, "W3": 0.40, "W4": 0.75}
MULTIPLE_OF_LIMIT = 1.6
SHARE_WITH_PRIORITIES = {"Tianshou": 0.95, "cpprb": 0.5}
LARGE_OVER_SMALL = 1.5
APPEND_ON_DISK = {"W1": 2.0, "W2": 1.2, "W3": 2.0, "W4": 1.2}

INTRODUCTION = """\
# Benchmarks

`make bench` measures everything on this page in one run and writes it. The contenders take turns (A B C,
B C A, ...), so that a disturbance of the machine hits all of them alike, and each number is a median. Every
memory is full and has begun to overwrite itself; every contender is first checked to hand out what it was
given. A batch is six torch tensors on the CPU, held until the next one exists, as a training loop does.

*limit* is a loop that draws indices and takes the two packed rows of each transition into one block that it
uses again and again: no tensors, no checks, no episodes. Ratios are to the one with `np.take`; the one with
`torch.index_select`, which uses threads, stands beside it.

Where a peer has two modes, both run and the faster one counts. TorchRL's `LazyMemmapStorage` is left out: on
W1 at 256 it was no faster than its `LazyTensorStorage`. Stable-Baselines3 merges the two flags, so its batch
is five tensors. Its `optimize_memory_usage` and Tianshou's `ignore_obs_next` hand out a wrong last
observation of an episode; they count all the same.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """One number to reach."""

    name: str
    found: float
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def is_reached(self) -> bool:
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    @property
    def cells(self) -> list[str]:
        sign = "at least" if self.at_least else "at most"
        verdict = "reached" if self.is_reached else "**not reached**"
        return [self.name, f"{self.found:,.3g}{self.unit}", f"{sign} {self.bound:,.3g}{self.unit}", verdict]


def page(results: Results) -> str:
    """The whole page, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [INTRODUCTION, f"{results.date}; {results.machine}; {versions}.\n"]
    parts += ["## To reach\n", _table(["", "found", "to reach", ""], [t.cells for t in targets(results)])]
    parts += [*_sampling(results), *_samplers(results), *_appending(results), *_storage(results)]
    parts += [*_memory(results)]
    parts += [*_pipeline(results)]
    if results.network is not None:
        parts += [*network_report.section(results.network)]
    return "\n".join(parts)


def targets(results: Results) -> list[Target]:
    """What this project sets out to reach, as far as the run measured it."""
    found = (_sampling_targets, _sampler_targets, _append_targets, _storage_targets, _other_targets)
    reached = [target for targets_of in found for target in targets_of(results)]
    line = () if results.network is None else network_report.goals(results.network)
    return [*reached, *(Target(*goal) for goal in line)]


def fastest_peer(seconds: dict[str, float]) -> str:
    """The contender that is neither ours nor the limit and took least time."""
    peers = (name for name in seconds if name != OURS and not _is_limit(name))
    return min(peers, key=seconds.__getitem__)


def _is_limit(name: str) -> bool:
    return name.startswith("limit")


def _sampling_targets(results: Results) -> Iterator[Target]:
    for workload, by_batch in results.sampling.items():
        for batch_size, seconds in by_batch.items():
            peer = fastest_peer(seconds)
            share = seconds[OURS] / seconds[peer]
            name = f"{workload}, batch of {batch_size}: time over that of the fastest peer ({peer})"
            if batch_size == 32:
                yield Target(name, share, 0.999)
            if batch_size == 256:
                yield Target(name, share, SHARE_OF_FASTEST_PEER[workload])
            if batch_size >= 256:
                name = f"{workload}, batch of {batch_size}: time over that of the limit"
                yield Target(name, seconds[OURS] / seconds[LIMIT], MULTIPLE_OF_LIMIT)


def _sampler_targets(results: Results) -> Iterator[Target]:
    for peer, bound in SHARE_WITH_PRIORITIES.items():
        if results.learning:
            share = results.learning[OURS] / results.learning[peer]
            yield Target(f"W1, draw by priority and update 256: time over that of {peer}", share, bound)
    for sampler, seconds in results.latency.items():
        (small, in_small), (large, in_large) = seconds.items()
        yield Target(f"{sampler}: {large} small rows over {small}", in_large / in_small, LARGE_OVER_SMALL)


def _append_targets(results: Results) -> Iterator[Target]:
    for kind, seconds in results.appending.items():
        if kind.startswith("1,000"):
            yield Target(f"append {kind}: samples per second", 1 / seconds["full"], 1e6, at_least=True)
        else:
            yield Target(f"append {kind}: Buffers per second", 1 / seconds["full"], 50e3, at_least=True)
        yield Target(f"append {kind}: full over empty memory", seconds["full"] / seconds["empty"], 1.2)


def _storage_targets(results: Results) -> Iterator[Target]:
    for workload, seconds in results.storage.items():
        ratios = {what: seconds[f"{what}, folder"] / seconds[f"{what}, RAM"] for what in ("append", "sample")}
        bound = APPEND_ON_DISK[workload]
        yield Target(f"{workload}: appending on the disk over appending in RAM", ratios["append"], bound)
        yield Target(f"{workload}: sampling from the disk over sampling from RAM", ratios["sample"], 1.1)
    if results.saving:
        save = results.saving["save"]
        pickled, torchrl = results.saving[PICKLING], results.saving[TORCHRL]
        yield Target("W1: saving over pickling a list of tuples", save / pickled, 0.1)
        yield Target("W1: saving over TorchRL's dumps", save / torchrl, 0.999)
        yield Target("W1: saving again over saving", results.saving["save again, 1 % new"] / save, 0.05)


def _other_targets(results: Results) -> Iterator[Target]:
    for workload, sizes in results.memory.items():
        one, five = sizes["after one capacity"], sizes["after five capacities"]
        yield Target(f"{workload}: resident memory", five / 1e6, sizes["allowed"] / 1e6, " MB")
        yield Target(f"{workload}: resident memory after five capacities over after one", five / one, 1.01)
    if results.training:
        sampling, training = results.training["sampling"], results.training["training"]
        yield Target(
            "share of sampling in a SAC update on Pendulum", 100 * sampling / (sampling + training), 3, " %"
        )
    if results.crc is not None:
        yield Target("W1 in CRC mode, batch of 256", 1e3 * results.crc, 2, " ms")


def _sampling(results: Results) -> Iterator[str]:
    for workload, by_batch in results.sampling.items():
        yield f"## Sampling {workload}: {WORKLOADS[workload].summary}\n"
        yield f"{WORKLOADS[workload].capacity:,} transitions; microseconds per batch.\n"
        names = sorted(by_batch[256], key=by_batch[256].__getitem__)
        rows = [[name, *(f"{1e6 * seconds[name]:,.1f}" for seconds in by_batch.values())] for name in names]
        yield _table(["batch of", *map(str, by_batch)], rows)


def _samplers(results: Results) -> Iterator[str]:
    if results.learning:
        yield "## By priority\n"
        yield "W1; microseconds to draw a batch of 256 with its weights, and to update its priorities.\n"
        ranked = sorted(results.learning.items(), key=lambda named: named[1])
        yield _table(["", "draw and update"], [[name, f"{1e6 * s:,.1f}"] for name, s in ranked])
    if results.latency:
        yield "## Samplers\n"
        yield "Microseconds per batch of 256, in memories of as many rows of 16 bytes.\n"
        header = list(next(iter(results.latency.values())))
        rows = [
            [name, *(f"{1e6 * s:,.1f}" for s in seconds.values())]
            for name, seconds in results.latency.items()
        ]
        yield _table(["", *header], rows)


def _appending(results: Results) -> Iterator[str]:
    if results.appending:
        yield "## Appending to W1\n"
        yield "Microseconds per sample, all checks included.\n"
        rows = [
            [kind, *(f"{1e6 * seconds[state]:.2f}" for state in ("empty", "full"))]
            for kind, seconds in results.appending.items()
        ]
        yield _table(["Buffer of", "empty memory", "full memory"], rows)


def _storage(results: Results) -> Iterator[str]:
    if results.storage:
        yield "## On the disk\n"
        yield "Microseconds per sample appended, in Buffers of one episode, and per batch of 256 drawn.\n"
        header = list(next(iter(results.storage.values())))
        rows = [
            [name, *(f"{1e6 * seconds[key]:,.2f}" for key in header)]
            for name, seconds in results.storage.items()
        ]
        yield _table(["", *header], rows)
    if results.saving:
        yield "## Saving W1\n"
        yield "Seconds. Ours is on the disk when it returns, the others in the hands of the system.\n"
        yield _table(["", "seconds"], [[what, f"{s:.3f}"] for what, s in results.saving.items()])


def _memory(results: Results) -> Iterator[str]:
    if results.memory:
        yield "## Resident memory\n"
        yield "Megabytes. *Allowed* is the payload stored once, 32 bytes a row and 50 MB.\n"
        header = list(next(iter(results.memory.values())))
        rows = [
            [name, *(f"{sizes[key] / 1e6:,.0f}" for key in header)] for name, sizes in results.memory.items()
        ]
        yield _table(["", *header], rows)


def _pipeline(results: Results) -> Iterator[str]:
    if results.training and results.crc is not None:
        rows = [
            ["SAC on Pendulum: draw a batch of 256", f"{1e6 * results.training['sampling']:,.0f}"],
            ["SAC on Pendulum: train on it", f"{1e6 * results.training['training']:,.0f}"],
            ["W1 in CRC mode: draw a batch of 256 and verify it", f"{1e6 * results.crc:,.0f}"],
        ]
        yield "## End to end\n"
        yield _table(["", "microseconds"], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
