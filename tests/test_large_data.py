"""Data larger than the memory that a process may use: 6 GB are read and drawn from within 2 GB."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tmrl.datasets import DatasetWriter, Episode
from tmrl.schema import Nest, Schema

LIMIT = 2_000_000_000
ROWS, EPISODES = 500, 600  # of 20,000 bytes: 6 GB

ITERATE = """
import numpy as np
from tmrl.datasets import open_dataset
dataset = open_dataset(folder / "data")
total = sum(int(episode.rows["obs"][:, 0].sum()) for episode in dataset.episodes())
result = [dataset.n_rows, total]
"""
SAMPLE = """
from tmrl.memory import ReplayMemory
with ReplayMemory(memory_size=300_000, batch_size=256, seed=0, dataset_path=folder / "data",
                  storage_path=folder / "memory") as memory:
    for _ in range(200):
        batch = memory.sample()
        assert (batch.new_obs[:, 0] - batch.prev_obs[:, 0]).eq(1).all()
    result = [len(memory), memory.stats().bytes_full]
"""
PROGRAM = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
{body}
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([*result, int(peak.split()[1]) * 1024]))
"""


@pytest.fixture
def limited() -> Iterator[Path]:
    """The `procs` file of a control group whose processes get 2 GB, the pages of files included."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in {"memory", ""}:
            is_old = controllers == "memory"
            base = Path("/sys/fs/cgroup", "memory" if is_old else "", path.lstrip("/"), f"tmrl-{os.getpid()}")
            try:
                base.mkdir()
                (base / ("memory.limit_in_bytes" if is_old else "memory.max")).write_text(str(LIMIT))
            except OSError:
                continue
            yield base / "cgroup.procs"
            base.rmdir()
            return
    pytest.skip("control groups cannot be made here")


@pytest.mark.stress
@pytest.mark.skipif(sys.platform != "linux", reason="uses control groups")
@pytest.mark.timeout(3000)
def test_six_gigabytes_are_read_and_drawn_from_within_two(
    limited: Path, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    schema = Schema(Nest.infer("obs", np.zeros(2498, np.int64)), Nest.infer("act", np.zeros(1, np.float32)))
    rows = np.zeros(ROWS, schema.row_dtype)
    rows["truncated"][-1] = True
    with DatasetWriter(tmp_path / "data", schema) as writer:
        for number in range(EPISODES):
            rows["obs"] = np.arange(number * ROWS, (number + 1) * ROWS)[:, None]
            writer.write(Episode(rows, "ann", "demo"))
    n_rows = ROWS * EPISODES
    assert n_rows * schema.row_dtype.itemsize > 5.9e9
    forget_pages()
    read = run(ITERATE, limited, tmp_path)
    assert read[:2] == [n_rows, n_rows * (n_rows - 1) // 2]
    forget_pages()
    drawn = run(SAMPLE, limited, tmp_path)
    assert drawn[0] == n_rows - EPISODES
    assert drawn[1] > 5.9e9
    record_testsuite_property("peak bytes to read and to draw", (read[2], drawn[2]))
    assert max(read[2], drawn[2]) < LIMIT


def forget_pages() -> None:
    """Makes the system forget the files' pages, which count for whoever read them first."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def run(body: str, procs: Path, folder: Path) -> list[int]:
    """What a program prints that runs within the control group."""
    program = f"import os\nopen({str(procs)!r}, 'w').write(str(os.getpid()))\n{PROGRAM.format(body=body)}"
    ended = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
