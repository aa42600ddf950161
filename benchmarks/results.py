"""Everything one run measures."""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import bench_append
import bench_history
import bench_memory
import bench_network
import bench_pipeline
import bench_samplers
import bench_sampling
import bench_storage
import bench_windows
import torch
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
    "flashbax",
    "jax",
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
    windows: dict[str, dict[str, float]] = field(default_factory=dict)
    """What is drawn to contender to seconds per batch."""
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    """Workload to bytes."""
    frames: dict[str, float] = field(default_factory=dict)
    """Number of single frames, and bytes."""
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
    prefetch: dict[str, dict[str, float]] = field(default_factory=dict)
    """What is trained to "off" and "on" to seconds per draw and update."""
    histories: dict[str, dict[str, float]] = field(default_factory=dict)
    """How observations are kept to what is done to seconds, and to bytes of a row."""
    network: bench_network.NetworkResults | None = None
    """The line from workers to the trainer."""


def measure(only: str | None, *, is_quick: bool) -> Results:
    """Runs everything, or one part: the sampling of a workload, or what `_PARTS` names."""
    results = Results(_machine(), datetime.now(UTC).date().isoformat(), _versions())
    for name in WORKLOADS:
        if only in {None, name}:
            workload = _sized(name, is_quick)
            _say(f"sampling from {workload.capacity:,} transitions of {name}: {workload.summary}")
            results.sampling[name] = bench_sampling.measure(workload, _rounds(is_quick))
    for name, part in _PARTS.items():
        if only in {None, name}:
            _say(name)
            part(results, is_quick)
    return results


def _append(results: Results, is_quick: bool) -> None:
    results.appending = bench_append.measure(_sized("W1", is_quick), rounds=200)


def _memory(results: Results, is_quick: bool) -> None:
    for name in ("W1", "W2"):
        results.memory[name] = bench_memory.measure(_sized(name, is_quick))
    results.frames = bench_memory.measure_frames(WORKLOADS["W2"].with_capacity(100_000))


def _storage(results: Results, is_quick: bool) -> None:
    for name in WORKLOADS:
        results.storage[name] = bench_storage.measure(_sized(name, is_quick), _rounds(is_quick))
    results.saving = bench_storage.measure_saving(_sized("W1", is_quick))


def _samplers(results: Results, is_quick: bool) -> None:
    results.learning = bench_samplers.measure(_sized("W1", is_quick), _rounds(is_quick))
    large = bench_samplers.LARGE // (50 if is_quick else 1)
    results.latency = bench_samplers.measure_latency(large, _rounds(is_quick))


def _windows(results: Results, is_quick: bool) -> None:
    workloads = (_sized(name, is_quick) for name in ("W1", "W2"))
    results.windows = bench_windows.measure(*workloads, _rounds(is_quick))


def _training(results: Results, is_quick: bool) -> None:
    results.crc = bench_pipeline.measure_crc(WORKLOADS["W1"].with_capacity(50_000))
    results.training = bench_pipeline.measure_training()
    results.prefetch = bench_pipeline.measure_prefetch(_rounds(is_quick))
    results.histories = bench_history.measure(_rounds(is_quick))


def _network(results: Results, is_quick: bool) -> None:
    results.network = bench_network.measure(is_quick=is_quick)


_PARTS: dict[str, Callable[[Results, bool], None]] = {
    "append": _append,
    "memory": _memory,
    "storage": _storage,
    "samplers": _samplers,
    "windows": _windows,
    "training": _training,
    "network": _network,
}
PARTS = (*WORKLOADS, *_PARTS)


def _rounds(is_quick: bool) -> int:
    return 7 if is_quick else 21


def _sized(name: str, is_quick: bool) -> Workload:
    workload = WORKLOADS[name]
    return workload.with_capacity(workload.capacity // 50) if is_quick else workload


def _machine() -> str:
    system = f"{platform.system()} on {platform.machine()}"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    cores = f"{os.cpu_count()} cores (load before the run: {load})"
    threads = f"torch with {torch.get_num_threads()} of them"
    return f"{cores}, {threads}, {system}, Python {platform.python_version()}"


def _versions() -> dict[str, str]:
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
