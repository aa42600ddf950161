"""Recording leaves complete episodes, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation
from rich.console import Console

from tmrl.datasets import DatasetWriter, Episode, export, open_dataset
from tmrl.errors import DatasetError, HistoryError
from tmrl.memory import History, ReplayMemory, Stacked
from tmrl.runs.record import Recorder
from tmrl.runs.settings import RecordSettings


class Count(gymnasium.Env[Any, Any]):
    """Counts its steps, and ends after five."""

    observation_space = gymnasium.spaces.Dict({"n": gymnasium.spaces.Box(-1, 1, ())})
    action_space = gymnasium.spaces.Discrete(5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return self._obs(), {}

    def _obs(self) -> Any:
        return {"n": np.array(self.n, np.float32)}

    def step(self, action: Any) -> Any:
        self.n += 1
        label = {"source": "human"} if self.n == 3 else {}
        return self._obs(), float(action), self.n == 5, False, {"half": self.n / 2, **label}


class Stair(Count):
    """The same, seen as two numbers."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,))

    def _obs(self) -> Any:
        return np.array([self.n, -self.n], np.float32)


@pytest.fixture(autouse=True)
def count() -> Any:
    gymnasium.register("Count-v0", Count)
    yield
    del gymnasium.registry["Count-v0"]


def record(out: Path, **kwargs: Any) -> int:
    settings = RecordSettings(out, **{"env": "Count-v0", "episodes": 3, **kwargs})
    return Recorder(settings).record(Console(quiet=True))


def test_complete_episodes_are_recorded(tmp_path: Path) -> None:
    assert record(tmp_path / "out", info_keys=("half",)) == 3
    dataset = open_dataset(tmp_path / "out")
    assert dataset.about.environment == "Count-v0"
    assert dataset.about.observation_space == Count.observation_space
    for episode in dataset.episodes():
        assert episode.rows["obs/n"].tolist() == [0, 1, 2, 3, 4, 5]
        assert episode.rows["info/half"].tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
        assert episode.rows["rew"][1:].tolist() == episode.rows["act"][1:].tolist()
        assert (episode.is_terminated, episode.begins) == (True, True)
        assert (episode.source, episode.changes) == ("demo", ((3, "human"), (4, "demo")))
    assert len({episode.rows["act"].tobytes() for episode in dataset.episodes()}) == 3
    assert len(ReplayMemory(dataset_path=tmp_path / "out")) == 15


def test_same_seed_records_the_same(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        record(tmp_path / name, seed=seed)
    a, b, c = ([e.rows.tobytes() for e in open_dataset(tmp_path / name).episodes()] for name in "abc")
    assert a == b != c


def test_an_episode_may_be_cut(tmp_path: Path) -> None:
    record(tmp_path, max_steps=2)
    for episode in open_dataset(tmp_path).episodes():
        assert (episode.length, episode.is_truncated, episode.is_terminated) == (2, True, False)


def test_checksums_are_recorded_if_asked(tmp_path: Path) -> None:
    record(tmp_path, crc_debug=True)
    memory = ReplayMemory(dataset_path=tmp_path, crc_debug=True, batch_size=32)
    memory.sample()
    assert memory.stats().crc_checked == 32


def test_a_recording_goes_on_only_if_asked(tmp_path: Path) -> None:
    record(tmp_path)
    with pytest.raises(DatasetError, match="holds a dataset already; choose another folder"):
        record(tmp_path)
    record(tmp_path, append=True, episodes=2, seed=5)
    assert len(open_dataset(tmp_path)) == 5


def test_a_declared_history_is_recorded_once_and_comes_back_whole(tmp_path: Path) -> None:
    gymnasium.register("Stacks-v0", lambda: FrameStackObservation(Stair(), 4))
    try:
        record(tmp_path / "whole", env="Stacks-v0", crc_debug=True)
        record(tmp_path / "once", env="Stacks-v0", crc_debug=True, history="Stacked(4)")
        with pytest.raises(DatasetError, match="once holds rows of another layout"):
            record(tmp_path / "once", env="Stacks-v0", crc_debug=True, append=True)
        with pytest.raises(HistoryError, match="obs must hold 3 frames"):
            record(tmp_path / "wrong", env="Stacks-v0", history="Stacked(3)")
    finally:
        del gymnasium.registry["Stacks-v0"]
    whole, once = open_dataset(tmp_path / "whole"), open_dataset(tmp_path / "once")
    assert once.schema.history == History(Stacked(4))
    assert [leaf.shape for leaf in once.schema.obs.leaves] == [(2,)]
    assert once.about.observation_space == whole.about.observation_space
    export(once, tmp_path / "once.npz", to="npz")
    for one, other in zip(whole.episodes(), open_dataset(tmp_path / "once.npz").episodes(), strict=True):
        assert one.rows["obs"].tobytes() == other.rows["obs"].tobytes()
    memory = ReplayMemory(dataset_path=tmp_path / "once", history=History(Stacked(4)), crc_debug=True)
    expected = ReplayMemory(dataset_path=tmp_path / "whole", crc_debug=True)
    assert (memory.take(range(15)).new_obs == expected.take(range(15)).new_obs).all()
    assert memory.stats().crc_checked == 15
    exported = ReplayMemory(dataset_path=tmp_path / "once.npz", crc_debug=True)
    assert (exported.take(range(15)).prev_obs == expected.take(range(15)).prev_obs).all()
    assert exported.stats().crc_checked == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"episodes": 0},
            "--episodes and --max-steps must be at least 1 and --seed at least 0, got 0, None and 0",
        ),
        ({"max_steps": 0}, "got 3, 0 and 0"),
        ({"seed": -1}, "got 3, None and -1"),
        ({"env": None}, "--env must be given for random actions"),
        ({"env": "Nothing-v0"}, "--env must be the id of a Gymnasium environment, got 'Nothing-v0'"),
        ({"history": "Stack(4)"}, r"--history must be rules \(Latest, Stacked, ActionBuffer, Quantized\)"),
        ({"policy": "nowhere"}, "nowhere must be the folder of a run"),
    ],
)
def test_a_wrong_setting_is_refused_and_leaves_nothing(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        record(tmp_path / "out", **changes)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_keeps_what_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    step = Count.step

    def interrupted(self: Count, action: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 13:
            raise KeyboardInterrupt
        return step(self, action)

    monkeypatch.setattr(Count, "step", interrupted)
    assert record(tmp_path) == 2
    assert [episode.length for episode in open_dataset(tmp_path).episodes()] == [5, 5]


def test_an_episode_that_was_written_when_ctrl_c_came_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, episodes=1)
    write = DatasetWriter.write

    def interrupted(self: DatasetWriter, episode: Episode) -> None:
        write(self, episode)
        raise KeyboardInterrupt

    monkeypatch.setattr(DatasetWriter, "write", interrupted)
    assert record(tmp_path, append=True) == 1
    assert len(open_dataset(tmp_path)) == 2


@pytest.mark.skipif(os.name == "nt", reason="kills with a POSIX signal")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_ended_leaves_complete_episodes(sent: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tmrl", "record", "--env", "Pendulum-v1", "--max-steps", "20"]
    command += ["--episodes", "100000", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 100
        while len(list(tmp_path.glob("out/*.rows.npy"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send_signal(sent)
        out, err = child.communicate(timeout=60)
    dataset = open_dataset(tmp_path / "out")
    assert len(dataset) >= 4
    assert all(episode.length == 20 and episode.is_truncated for episode in dataset.episodes())
    if sent == signal.SIGINT:
        assert child.returncode == 130
        assert f"{len(dataset)} episodes were recorded" in out
        assert "Traceback" not in err
