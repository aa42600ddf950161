"""Resident memory of a process that holds one full memory; it runs as a child, to start from a clean heap."""

import gc
import json
import subprocess
import sys
from pathlib import Path

from workloads import WORKLOADS, Workload, one_frame, samples

OVERHEAD_PER_ROW = 32
OVERHEAD = 50e6
CAPACITIES_APPENDED = 5


def measure(workload: Workload) -> dict[str, float]:
    """Bytes: resident after one and after five capacities of appends, and the payload stored once."""
    return _in_child("transitions", workload)


def measure_frames(workload: Workload) -> dict[str, float]:
    """Single frames, handed out as stacks of four: their number, and bytes of them and of a million."""
    return _in_child("frames", workload)


def _in_child(report: str, workload: Workload) -> dict[str, float]:
    command = [sys.executable, __file__, report, workload.name, str(workload.capacity)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _resident() -> int:
    """Bytes of this process in RAM, from the kernel (Linux)."""
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def _report(workload: Workload) -> dict[str, float]:
    from contenders import Tmrl

    ours = Tmrl(workload)
    before = _resident()
    numbers = iter(range(CAPACITIES_APPENDED * workload.episodes_to_fill))
    resident = []
    for _ in range(CAPACITIES_APPENDED):
        for _ in range(workload.episodes_to_fill):
            ours.append(workload.episode(next(numbers) % 4))
        ours.memory.sample()
        resident.append(_resident() - before)
    payload = workload.capacity * workload.row.itemsize
    return {
        "payload": payload,
        "allowed": payload + OVERHEAD_PER_ROW * workload.capacity + OVERHEAD,
        "after one capacity": resident[0],
        "after five capacities": resident[-1],
    }


def _report_frames(workload: Workload) -> dict[str, float]:
    from tmrl.memory import FrameStack, ReplayMemory
    from tmrl.networking import Buffer

    frames = one_frame(workload)
    memory = ReplayMemory(memory_size=frames.capacity, seed=0, window=FrameStack(4))
    before = _resident()
    for number in range(frames.episodes_to_fill):
        buffer = Buffer()
        buffer.memory = samples(frames.episode(number % 4))
        memory.append(buffer)
    del buffer
    memory.sample()
    resident, full = _resident() - before, memory.stats().bytes_full
    row_bytes = full / (frames.capacity + 1)
    return {
        "frames": frames.capacity,
        "bytes a frame, index included": row_bytes,
        "resident": resident,
        "a million": 1e6 * row_bytes + max(0, resident - full),
    }


if __name__ == "__main__":
    report, name, capacity = sys.argv[1:]
    reports = {"transitions": _report, "frames": _report_frames}
    print(json.dumps(reports[report](WORKLOADS[name].with_capacity(int(capacity)))))
