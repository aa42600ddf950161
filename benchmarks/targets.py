"""What this project sets out to reach, as far as a run measured it."""

from collections.abc import Iterator
from dataclasses import dataclass

import bench_windows as windows
import network_report
from bench_storage import PICKLING, TORCHRL
from limit import LIMIT
from results import Results

OURS = "tmrl"
SHARE_OF_FASTEST_PEER = {"W1": 0.40, "W2": 0.75, "W3": 0.40, "W4": 0.75}
MULTIPLE_OF_LIMIT = 1.6
SHARE_WITH_PRIORITIES = {"Tianshou": 0.95, "cpprb": 0.5}
LARGE_OVER_SMALL = 1.5
APPEND_ON_DISK = {"W1": 2.0, "W2": 1.2, "W3": 2.0, "W4": 1.2}
FRAMES_BYTES = 7.5e9
SHARE_WITH_WINDOWS = {
    windows.SEQUENCES_DRAWN: {windows.TORCHRL: 0.25, windows.FLASHBAX: 0.25},
    windows.RETURNS_DRAWN: {windows.STABLE_BASELINES3: 0.5, windows.CPPRB_N_STEP: 0.999},
}


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


def targets(results: Results) -> list[Target]:
    """What this project sets out to reach, as far as the run measured it."""
    found = (
        _sampling_targets,
        _sampler_targets,
        _window_targets,
        _append_targets,
        _storage_targets,
        _other_targets,
    )
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


def _window_targets(results: Results) -> Iterator[Target]:
    for what, seconds in results.windows.items():
        for peer, bound in SHARE_WITH_WINDOWS.get(what, {}).items():
            yield Target(f"{what}: time over that of {peer}", seconds[OURS] / seconds[peer], bound)


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
    if results.frames:
        name = "a million single frames of 84x84, by the bytes a frame that were found"
        yield Target(name, results.frames["a million"] / 1e9, FRAMES_BYTES / 1e9, " GB")
    if results.training:
        sampling, training = results.training["sampling"], results.training["training"]
        yield Target(
            "share of sampling in a SAC update on Pendulum", 100 * sampling / (sampling + training), 3, " %"
        )
    if results.crc is not None:
        yield Target("W1 in CRC mode, batch of 256", 1e3 * results.crc, 2, " ms")
