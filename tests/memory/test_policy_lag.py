"""How old the policies are that acted in a batch: known of rows that were saved, and never guessed."""

from pathlib import Path
from typing import Any

import pytest

from makers import buffer_of, of_policy, plain_episode, stamped
from tmrl.datasets import files
from tmrl.memory import Mixture, ReplayMemory


def acted(memory: ReplayMemory, episode: int, version: int, **kwargs: Any) -> None:
    """Appends an episode of five steps in which a policy of this version acted."""
    samples = stamped(plain_episode(5), first_step=6 * episode, episode=episode)
    memory.append(buffer_of(of_policy(version, samples)), **kwargs)


def lags(memory: ReplayMemory) -> list[float]:
    """By how many versions each transition lags behind the newest, NaN where that is not known."""
    lags: list[float] = []
    for index in range(len(memory)):
        memory.take([index])
        lags.append(memory.stats().policy_lag_p50)
    return lags


def test_a_loaded_memory_knows_which_policies_acted(tmp_path: Path) -> None:
    memory = ReplayMemory(memory_size=100, seed=0)
    for episode, version in enumerate([2, 2, 5]):
        acted(memory, episode, version)
    assert lags(memory) == [3.0] * 10 + [0.0] * 5
    memory.save(tmp_path)
    loaded = ReplayMemory.load(tmp_path)
    assert lags(loaded) == lags(memory)
    acted(loaded, 3, 6)
    assert lags(loaded) == [4.0] * 10 + [1.0] * 5 + [0.0] * 5


def test_a_memory_in_a_folder_does_not_guess_what_was_not_flushed(tmp_path: Path) -> None:
    memory = ReplayMemory(memory_size=100, seed=0, storage_path=tmp_path)
    acted(memory, 0, 2)
    memory.flush()
    acted(memory, 1, 5)
    memory._state.abandon()
    with ReplayMemory(memory_size=100, seed=0, storage_path=tmp_path) as reopened:
        acted(reopened, 2, 6)
        assert lags(reopened) == pytest.approx([4.0] * 5 + [float("nan")] * 5 + [0.0] * 5, nan_ok=True)
    with ReplayMemory(memory_size=100, seed=0, storage_path=tmp_path) as again:
        assert lags(again) == pytest.approx([4.0] * 5 + [float("nan")] * 5 + [0.0] * 5, nan_ok=True)


def mixture() -> Mixture:
    return Mixture({"online": 1.0, "demo": 1.0}, keep={"demo": 50})


@pytest.mark.parametrize("is_stored", [False, True])
def test_of_kept_sources_it_is_known_too(tmp_path: Path, is_stored: bool) -> None:
    options: dict[str, Any] = {"storage_path": tmp_path / "stored"} if is_stored else {}
    memory = ReplayMemory(memory_size=100, seed=0, sampler=mixture(), **options)
    acted(memory, 0, 3, source="demo")
    acted(memory, 1, 7)
    memory.save(tmp_path / "saved")
    memory.close()
    again = [ReplayMemory.load(tmp_path / "saved", sampler=mixture())]
    if is_stored:
        again.append(ReplayMemory(memory_size=100, seed=0, sampler=mixture(), **options))
    for other in again:
        assert sorted(lags(other)) == [0.0] * 5 + [4.0] * 5
        other.close()


def test_of_a_memory_saved_before_versions_were_kept_it_is_not_known(tmp_path: Path) -> None:
    memory = ReplayMemory(memory_size=100, seed=0)
    acted(memory, 0, 2)
    memory.save(tmp_path)
    body, _ = files.read_manifest(tmp_path)
    del body["state"]["store"]["versions"]
    files.replace_manifest(tmp_path, body)
    loaded = ReplayMemory.load(tmp_path)
    acted(loaded, 1, 4)
    assert lags(loaded) == pytest.approx([float("nan")] * 5 + [0.0] * 5, nan_ok=True)
