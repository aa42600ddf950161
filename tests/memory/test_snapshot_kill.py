"""A process that appends and saves is killed at random moments; what it acknowledged as saved is there."""

import random
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tmrl.memory import ReplayMemory

CHILD = """
import sys
from pathlib import Path

import numpy as np

from tmrl.memory import ReplayMemory
from tmrl.networking import Buffer
from tmrl.transition import Sample, Stamp

folder, is_new = Path(sys.argv[1]), sys.argv[2] == "new"
make = dict(memory_size=500, batch_size=8, seed=0)
memory = ReplayMemory(**make) if is_new else ReplayMemory.load(folder)
step = memory.stats().appended
print("ready", flush=True)
while True:
    buffer = Buffer()
    for _ in range(40):
        obs = np.full(8, step, np.int64)
        episode, episode_step = divmod(step, 30)
        values = (None if episode_step == 0 else obs, obs, float(step), episode_step == 29, False, {})
        buffer.memory.append(Sample(values, Stamp("ann", 0, step, episode, episode_step)))
        step += 1
    memory.append(buffer)
    memory.save(folder)
    print(step, flush=True)
"""


def kill_and_check(folder: Path, kills: int, seed: int) -> None:
    """Runs the child, kills it after some saves and somewhere within the next, and looks at what is left."""
    rng = random.Random(seed)
    saved = 0
    for _ in range(kills):
        command = [sys.executable, "-c", CHILD, str(folder), "new" if saved == 0 else "again"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == "ready\n"
                for _ in range(rng.randrange(1, 8)):
                    saved = int(child.stdout.readline())
                with suppress(subprocess.TimeoutExpired):  # an append and a save take about 5 ms
                    child.wait(rng.uniform(0.0, 0.01))
            finally:
                child.kill()
            rest = child.stdout.read().split("\n")
        complete = [int(line) for line in rest[:-1] if line and len(line) == len(str(saved))]
        saved = max([saved, *complete])
        check(ReplayMemory.load(folder), saved)


def check(memory: ReplayMemory, saved: int) -> None:
    """Nothing acknowledged is missing, no row is torn, no transition is made up."""
    stats = memory.stats()
    assert stats.appended >= saved
    assert stats.appended % 40 == 0
    assert stats.rows == min(501, stats.appended)
    for index in range(len(memory)):
        prev_obs, act, rew, obs, terminated, _, _ = memory.get_transition(index)
        assert (obs == obs[0]).all()
        assert (prev_obs == obs[0] - 1).all()
        assert (act == obs).all()
        assert rew == np.float32(obs[0])
        assert terminated == (obs[0] % 30 == 29)
        assert obs[0] % 30 != 0
    assert len({int(memory.get_transition(index)[3][0]) for index in range(len(memory))}) == len(memory)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a thing of POSIX")
def test_ten_kills_lose_nothing_that_was_saved(tmp_path: Path) -> None:
    kill_and_check(tmp_path / "memory", kills=10, seed=0)


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_three_hundred_kills_lose_nothing_that_was_saved(tmp_path: Path) -> None:
    kill_and_check(tmp_path / "memory", kills=300, seed=1)
    shutil.rmtree(tmp_path)
