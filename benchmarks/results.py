"""Everything one run measures."""

import os
import platform
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import bench_append
import bench_memory
import bench_network
import bench_pipeline
import bench_samplers
import bench_sampling
import bench_storage
from workloads import WORKLOADS, Workload

PACKAGES = (
    "tmrl-memory",
    "torch",
    "numpy",
    "cpprb",
    "stable_baselines3",
    "tianshou",
    "torchrl",
    "tensordict",
)


@dataclass(slots=True)
class Results:
    """What was measured: seconds and bytes."""

    machine: str
    date: str
    versions: dict[str, str]
    sampling: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    """Workload to batch size to contender to seconds per batch."""
    appending: dict[str, dict[str, float]] = field(default_factory=dict)
    """Kind of Buffer to state of the memory to seconds per sample, on W1."""
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    """Workload to bytes."""
    storage: dict[str, dict[str, float]] = field(default_factory=dict)
    """Workload to what is done, and where, to seconds per sample or batch."""
    saving: dict[str, float] = field(default_factory=dict)
    """What is done to seconds, on W1."""
    learning: dict[str, float] = field(default_factory=dict)
    """Contender to seconds to draw by priority and update, on W1."""
    latency: dict[str, dict[str, float]] = field(default_factory=dict)
    """Sampler to number of transitions to seconds per batch."""
    crc: float | None = None
    """Seconds per checked batch of 256, on W1."""
    training: dict[str, float] = field(default_factory=dict)
    """Seconds of sampling and of training per update."""
    network: bench_network.NetworkResults | None = None
    """The line from workers to the trainer."""


def measure(only: str | None, *, is_quick: bool) -> Results:
    """Runs the sampling of one workload, or everything."""
    rounds = 7 if is_quick else 21
    results = Results(_machine(), datetime.now(UTC).date().isoformat(), _versions())
    for name in [only] if only else WORKLOADS:
        workload = _sized(name, is_quick)
        _say(f"sampling from {workload.capacity:,} transitions of {name}: {workload.summary}")
        results.sampling[name] = bench_sampling.measure(workload, rounds)
    if not only:
        _measure_rest(results, is_quick)
    return results


def _measure_rest(results: Results, is_quick: bool) -> None:
    _say("appending")
    results.appending = bench_append.measure(_sized("W1", is_quick), rounds=200)
    for name in ("W1", "W2"):
        _say(f"resident memory of {name}")
        results.memory[name] = bench_memory.measure(_sized(name, is_quick))
    for name in WORKLOADS:
        _say(f"{name} on the disk")
        results.storage[name] = bench_storage.measure(_sized(name, is_quick), 7 if is_quick else 21)
    _say("saving W1")
    results.saving = bench_storage.measure_saving(_sized("W1", is_quick))
    _say("drawing by priority")
    results.learning = bench_samplers.measure(_sized("W1", is_quick), 7 if is_quick else 21)
    _say("samplers in a small and in a large memory")
    large = bench_samplers.LARGE // (50 if is_quick else 1)
    results.latency = bench_samplers.measure_latency(large, 7 if is_quick else 21)
    _say("CRC mode")
    results.crc = bench_pipeline.measure_crc(WORKLOADS["W1"].with_capacity(50_000))
    _say("share of sampling in training")
    results.training = bench_pipeline.measure_training()
    _say("the line from workers to the trainer")
    results.network = bench_network.measure(is_quick=is_quick)


def _sized(name: str, is_quick: bool) -> Workload:
    workload = WORKLOADS[name]
    return workload.with_capacity(workload.capacity // 50) if is_quick else workload


def _machine() -> str:
    system = f"{platform.system()} on {platform.machine()}"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    cores = f"{os.cpu_count()} cores (load before the run: {load})"
    return f"{cores}, {system}, Python {platform.python_version()}"


def _versions() -> dict[str, str]:
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
