"""What the benchmark of the line found, as a section of docs/benchmarks.md."""

from collections.abc import Iterator

from bench_network import PICKLES, NetworkResults, Throughput

SAMPLES_PER_S = {"98 bytes": 2e6, "7 KB": 80e3}
NEAREST = "parcels, server in the trainer's process"
"""Two worker processes, and one process of the trainer."""

INTRODUCTION = """\
Two worker processes send as fast as they can, a window of 8 messages each, parcels of 1,000 samples, over TLS
on loopback; a sample counts when its worker knows that it is durable. *Parcels* were packed before, *Buffers*
are packed by `send`. The server is a process of its own unless said otherwise. Pickled lists of tuples go
over a plain socket, without TLS and without a server between. CPU seconds are for each GB of rows.
"""

NOTES = """\
What paid, measured in turns with the version before it: messages of up to 1 MB where so much waits, no
thread for the sync of a log in memory, and a spool in memory that feeds the trainer at once instead of
every 50 ms. Together: 6.4 CPU seconds for each GB of small rows became 4.6, and 1.9 M samples/s became
2.7 M. Rows of 7 KB gained nothing beyond the noise. What did not pay, and is not there: larger HTTP/2
frames, look-ahead, write buffers and read chunks of gRPC, and keeping freed memory in the process, all
within the noise. What was found last, by a profile of the trainer: it summed the lengths of all parcels
anew for each one that it took in. Now the length is kept, and on a slower machine 1.5 M samples/s became
2.3 M (6.7 and 4.5 CPU seconds a GB). A stream of gRPC alone, with TLS and without anything of ours, takes
1.15 CPU seconds for each GB and hop: 0.4 to send, 0.75 to receive.
"""


def goals(results: NetworkResults) -> Iterator[tuple[str, float, float, str, bool]]:
    """Name, what was found, what is to be reached, its unit, and whether that is the least."""
    for rows, bound in SAMPLES_PER_S.items():
        found = results.throughput[rows][NEAREST].samples_per_s
        yield f"line, rows of {rows}, {NEAREST}: samples per second", found, bound, "", True
    yield "line, a policy of 16 MB to a worker", results.policy_s, 0.5, " s", False
    for outbox, seconds in results.send_s.items():
        yield f"line, `send` with no network, outbox in {outbox}, p99", 1e3 * seconds, 1, " ms", False


def section(results: NetworkResults) -> Iterator[str]:
    """The section, in Markdown."""
    yield "## The line\n"
    yield INTRODUCTION
    for rows, found in results.throughput.items():
        yield f"### Rows of {rows}\n"
        yield "| | samples/s | over pickles | workers | server | trainer |"
        yield "| --- | ---: | ---: | ---: | ---: | ---: |"
        pickled = found[PICKLES].samples_per_s
        for kind, measured in found.items():
            yield _row(kind, measured, pickled)
        yield ""
    outboxes = " and ".join(
        f"{1e3 * s:.2f} ms into a full outbox, {name}" for name, s in results.send_s.items()
    )
    yield f"A policy of 16 MB is loaded by a worker {results.policy_s:.2f} s after it was sent. With the"
    yield f"network down, `send` of 20 samples takes {outboxes} at the 99th percentile.\n"
    yield NOTES


def _row(kind: str, measured: Throughput, pickled: float) -> str:
    spent = measured.cpu_s_per_gb
    cpu = [f"{spent[name]:.2f}" if name in spent else "" for name in ("workers", "server", "trainer")]
    cells = [kind, f"{measured.samples_per_s:,.0f}", f"{measured.samples_per_s / pickled:.1f}", *cpu]
    return f"| {' | '.join(cells)} |"
