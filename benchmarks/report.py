"""docs/benchmarks.md: the numbers of one run, and the ratios to reach, a miss shown like a hit."""

from collections.abc import Iterator

import network_report
from bench_history import ROW_BYTES
from results import Results
from targets import targets
from workloads import WORKLOADS

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

WHY = """\
What is missed, or reached by a hair, and why:

- *Sequences beside Flashbax.* It knows no episodes: a sequence is one stretch of an array, and XLA compiles
  the whole draw. Ours follows 64 links, which costs 40 us, and NumPy's calls cost most of the rest.
- *n-step returns beside cpprb.* cpprb made them when it stored, for one `n` and one discount. Ours are made
  at the draw, from four rows where cpprb reads two.
- *Saving beside TorchRL.* In time of the CPU 0.32 s beside 0.10 s: ours sums every row and every file, and
  waits for the disk; `dumps` does neither. Saving again writes the last, unfinished one of 32 segments anew,
  half a segment in the mean, beside the new rows, and waits for the disk as often.
- *Appending to a folder.* See "On the disk": the checksums, and the faults after the system wrote pages out.
- *Prioritized in a large memory.* Ten million leaves are 80 MB, and a draw and an update go down three levels
  to leaves that no cache holds. The tree alone takes 1.4 times as long there (`memory/sum_tree.py`).
- *Uniform in a large memory.* Two look-ups in memory that no cache holds: the anchor's pair, and its rows.
- *On a slower machine.* A whole run on 2026-11-28 found one where a small call of Python, NumPy or torch
  took two to three times as long (`index_select` of 32 rows 24 us instead of 7), and copies half as long
  again. There the calls weigh more: W1 at 256 took 0.50 times the fastest peer's time and 2.6 times the
  limit's, W4 at 256 as long as the fastest peer, a prioritized draw 1.1 times Tianshou's, n-step returns
  1.6 times cpprb's; appending came to 0.79 M and 0.60 M samples/s, and 20 k and 32 k one at a time. The
  line reached all its goals: 2.06 M and 102 k samples/s, 0.10 s for a policy, 0.66 ms for `send`. One
  sample tuple at a time takes 0.73 times as long since then as in the table below, measured in turns.
"""

WINDOWS = """\
Microseconds per batch. Every peer is asked for the least that its documentation offers: TorchRL and Flashbax
hand out 64 observations of a sequence and no last `new_obs`, ours 65. Flashbax draws in one function that XLA
compiled, its batches stay JAX arrays, and its sequences run on into the next episode; ours never do. cpprb
makes its returns and stacks when it stores, and puts ones in place of the `new_obs` of a return that an
episode's end cut short. *In turns* means that eight workers sent chunks of twenty steps.
"""

STORAGE = """\
Microseconds per sample appended, in Buffers of one episode, and per batch of 256 drawn. What a folder costs
beside RAM is the checksum of each row, and a page fault where the system has just written a page to the disk.
On a machine that is nearly idle, an append to W4 took 1.01 to 1.03 times that to RAM
without checksums, 1.18 to 1.23 times where all rows were copied and then summed, and 1.12 to 1.13 times since
both are done in pieces that fit in the cache. Right after an `fsync` of everything, in time of the CPU, it is
1.29 times (W1 1.54, W2 1.14, W3 1.31). To announce the writes to the kernel (`MADV_POPULATE_WRITE`) made that
1.23 on W4, and 1.65 on W1: not kept.
"""

HISTORIES = """\
Observations of a speed, four stacked frames of 64x64 and two actions, stored whole or with a `History`;
microseconds. The worker's step is what is added to it: the proof that what is left out can be rebuilt, and
with `crc_debug` the checksums of what the policy saw.
"""

PREFETCH = """\
Microseconds per update with `prefetch=0` and `prefetch=2`. Where the CPU trains, the thread that draws ahead
takes from training about what it saves, so the default is off.
"""


def page(results: Results) -> str:
    """The whole page, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    parts = [INTRODUCTION, f"{results.date}; {results.machine}; {versions}.\n"]
    parts += ["## To reach\n", _table(["", "found", "to reach", ""], [t.cells for t in targets(results)])]
    parts += [WHY]
    sections = (_sampling, _samplers, _windows, _appending, _storage, _memory, _histories, _pipeline)
    parts += [text for section in sections for text in section(results)]
    if results.network is not None:
        parts += [*network_report.section(results.network)]
    return "\n".join(parts)


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


def _windows(results: Results) -> Iterator[str]:
    if results.windows:
        yield "## Windows\n"
        yield WINDOWS
    for what, seconds in results.windows.items():
        rows = [[name, f"{1e6 * seconds[name]:,.1f}"] for name in sorted(seconds, key=seconds.__getitem__)]
        yield _table([what, "microseconds"], rows)


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
        yield STORAGE
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

    if results.frames:
        yield _frames(results.frames)


def _frames(sizes: dict[str, float]) -> str:
    found, as_stacks = sizes["a million"] / 1e9, 2 * 4 * 84 * 84 / 1e3
    return (
        f"{sizes['frames']:,.0f} single frames of 84x84, handed out in stacks of four, take "
        f"{sizes['resident'] / 1e6:,.0f} MB: {sizes['bytes a frame, index included']:,.0f} bytes a frame, "
        f"index included, and what the process needs beside it. A million of them take {found:.2f} GB; "
        f"stored as stacks, each with the next one, {as_stacks:.1f} GB.\n"
    )


def _histories(results: Results) -> Iterator[str]:
    if results.histories:
        yield "## Histories\n"
        yield HISTORIES
        header = list(next(iter(results.histories.values())))
        rows = [
            [name, *(f"{costs[key] * (1 if key == ROW_BYTES else 1e6):,.1f}" for key in header)]
            for name, costs in results.histories.items()
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
    if results.prefetch:
        yield "## Prefetch on a CPU\n"
        yield PREFETCH
        rows = [
            [name, *(f"{1e6 * seconds[state]:,.0f}" for state in ("off", "on"))]
            for name, seconds in results.prefetch.items()
        ]
        yield _table(["draw a batch and train on it", "off", "on"], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
