"""Resident memory of a process that holds one full memory; it runs as a child, to start from a clean heap."""

import gc
import json
import subprocess
import sys
from pathlib import Path

from workloads import WORKLOADS, Workload

OVERHEAD_PER_ROW = 32
OVERHEAD = 50e6
CAPACITIES_APPENDED = 5


def measure(workload: Workload) -> dict[str, float]:
    """Bytes: resident after one and after five capacities of appends, and the payload stored once."""
    command = [sys.executable, __file__, workload.name, str(workload.capacity)]
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


if __name__ == "__main__":
    name, capacity = sys.argv[1:]
    print(json.dumps(_report(WORKLOADS[name].with_capacity(int(capacity)))))
