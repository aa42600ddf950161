"""`tmrl train` with what to draw and what to hand out: priorities, n-step returns, stacks, demonstrations."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation
from safetensors.torch import load_file

from tmrl.agents import SACAgent
from tmrl.datasets import open_dataset
from tmrl.datasets.files import read_manifest
from tmrl.datasets.priorities import read_priorities
from tmrl.datasets.segments import memory_in
from tmrl.runs.folder import read_json

Call = Callable[..., tuple[int, str, str]]

SHORT = (
    *("--steps", "220", "--warm-up", "150", "--batch-size", "16"),
    *("--name", "one", "--target-return", "-1e6"),
)
RUN = Path("runs/one")

pytestmark = pytest.mark.usefixtures("workplace")


def train(call: Call, *flags: str) -> dict[str, Any]:
    """Trains with these flags; what the summary says of the memory."""
    code, _, err = call("train", *SHORT, *flags)
    assert code == 0, err
    summary = read_json(RUN / "summary.json")
    assert summary["updates"] == 70
    assert summary["memory"]["draws"] == 70 * 16
    return summary["memory"]


def saved_memory() -> dict[str, Any]:
    return memory_in(read_manifest(RUN / "checkpoint")[0])


def record(call: Call, *flags: str) -> None:
    code, _, err = call("record", "out", *flags, "--episodes", "3")
    assert code == 0, err


def rows_by_source() -> dict[str, int]:
    rows: dict[str, int] = {}
    for episode in open_dataset(RUN / "checkpoint").episodes():
        for start, stop, source in episode.parts():
            rows[source] = rows.get(source, 0) + stop - start
    return rows


def test_prioritized_draws_by_the_errors_of_the_agent(call: Call) -> None:
    memory = train(call, "--prioritized")
    saved = read_priorities(RUN / "checkpoint", saved_memory(), "Prioritized(alpha=0.6)")
    assert saved is not None
    # Those that were drawn have the agent's errors, each its own.
    assert 100 < len(np.unique(saved[1])) <= memory["transitions"]


def test_n_step_3_hands_out_returns_of_three_steps(call: Call) -> None:
    memory = train(call, "--n-step", "3", "--crc-debug")
    assert saved_memory()["settings"]["window"] == {
        "kind": "NStep",
        "n": 3,
        "discount": 0.99,
        "stack": None,
        "wait": False,
    }
    # Each step that a return sums up is checked; at the end of an episode there are fewer than three.
    assert 2.5 * 70 * 16 < memory["crc_checked"] <= 3 * 70 * 16


def test_frame_stack_shows_the_policy_the_last_observations(call: Call) -> None:
    train(call, "--frame-stack", "3")
    assert saved_memory()["settings"]["window"] == {"kind": "FrameStack", "k": 3, "leaves": []}
    assert load_file(RUN / "policy.safetensors")["policy.body.0.weight"].shape == (256, 3 * 3)
    assert open_dataset(RUN / "checkpoint").schema.obs.leaves[0].shape == (3,)


def test_half_of_each_batch_are_demonstrations_however_small_the_memory(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(call, "--env", "Pendulum-v1", "--max-steps", "30")
    n_demos: list[int] = []
    train_on = SACAgent.train

    def counted(agent: SACAgent, batch: Any) -> Any:
        n_demos.append(int((batch.ids % 2 == 1).sum()))  # the second of two rings is theirs
        return train_on(agent, batch)

    monkeypatch.setattr(SACAgent, "train", counted)
    memory = train(call, "--demos", "out", "--demo-fraction", "0.5", "--memory-size", "150")
    assert memory["capacity"] == 150
    assert n_demos == [8] * 70
    assert rows_by_source() == {"demo": 3 * 31, "online": 150 - 92 + 1}
    shutil.rmtree("out")  # a run that goes on has them in its checkpoint
    code, _, err = call("train", "--resume", RUN, "--steps", "400", "--memory-size", "120")
    assert code == 0, err
    assert n_demos == [8] * 250
    assert rows_by_source() == {"demo": 3 * 31, "online": 120 - 92 + 1}


def test_all_of_it_at_once_and_the_run_goes_on(call: Call) -> None:
    record(call, "--env", "Pendulum-v1", "--max-steps", "30", "--crc-debug")
    flags = ("--prioritized", "--n-step", "3", "--frame-stack", "2", "--crc-debug")
    memory = train(call, *flags, "--demos", "out", "--demo-fraction", "0.25")
    assert memory["crc_checked"] >= 2.5 * 70 * 16
    code, out, err = call("train", "--resume", RUN, "--steps", "230")
    assert code == 0, err
    assert "goes on after 70 updates" in out
    assert rows_by_source()["demo"] == 3 * 31
    assert read_json(RUN / "summary.json")["updates"] == 80


class Dial(gymnasium.Env[Any, Any]):
    """A number that actions turn."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=2).astype(np.float32)
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.place = self.place + np.float32(action)
        return self.place, -float(np.abs(self.place).sum()), False, False, {}


def test_what_is_recorded_with_a_history_is_trained_from(call: Call) -> None:
    gymnasium.register("Dials-v0", lambda: FrameStackObservation(Dial(), 4), max_episode_steps=20)
    try:
        record(call, "--env", "Dials-v0", "--history", "Stacked(4)", "--source", "script")
        code, out, err = call("export", "out", "out.npz", "--to", "npz")
        assert code == 0, err
        assert "- observations were made whole, by History(spec=Stacked(k=4" in out
        train(call, "--env", "Dials-v0", "--dataset", "out", "--demos", "out.npz")
        rows = rows_by_source()
        assert rows["demo"] == rows["script"] == 3 * 21
        by_label = {
            episode.source: episode.rows["obs"] for episode in open_dataset(RUN / "checkpoint").episodes()
        }
        assert by_label["demo"].tobytes() == by_label["script"].tobytes()
    finally:
        del gymnasium.registry["Dials-v0"]


def test_an_observation_that_is_not_what_the_history_says_is_told(call: Call) -> None:
    code, _, err = call("record", "out", "--env", "Pendulum-v1", "--history", "Stacked(4)")
    assert code == 2
    assert "obs must hold 4 frames along its first axis to be Stacked(4), got shape (3,)" in err
    assert not Path("out").exists()
