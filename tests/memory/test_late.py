"""Stored fields of rows that are changed afterwards."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from makers import buffer_of, plain_episode, stamped, with_crc
from tmrl.datasets import stored_ring
from tmrl.errors import EmptyMemoryError
from tmrl.memory import ReplayMemory
from tmrl.memory.snapshot import segment_rows


def memory_of(n: int = 9, **kwargs: Any) -> ReplayMemory:
    memory = ReplayMemory(
        **{"batch_size": 64, "seed": 0, "memory_size": 1000, "info_keys": ("success", "state"), **kwargs}
    )
    episode = stamped(plain_episode(n))
    for i, sample in enumerate(episode):
        sample[5]["success"] = False
        sample[5]["state"] = {"h": np.full(3, i, np.float32)}
    memory.append(buffer_of(with_crc(episode) if memory.crc_debug else episode))
    return memory


def everything(memory: ReplayMemory) -> Any:
    return memory.take(range(len(memory)))


def test_rewards_and_kept_info_change_by_id() -> None:
    memory = memory_of()
    memory.write([3, 5], rew=[30.0, 50.0], success=np.array([True, False]))
    memory.write(torch.tensor([4]), state={"h": torch.full((1, 3), 7.5)})
    batch = everything(memory)
    assert batch.rew.tolist() == [1, 2, 30, 4, 50, 6, 7, 8, 9]
    assert batch.info["success"].nonzero().tolist() == [[2]]
    assert batch.info["state"]["h"][:, 0].tolist() == [1, 2, 3, 7.5, 5, 6, 7, 8, 9]


def test_of_equal_ids_the_last_counts_and_evicted_ones_are_counted() -> None:
    memory = memory_of(20, memory_size=5)
    memory.write([17, 17, 3, 999], rew=[1.0, 2.0, 3.0, 4.0])
    assert everything(memory).rew.tolist() == [16, 2, 18, 19, 20]
    assert memory.stats().writes_ignored == 2


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        ([1], {"obs": np.zeros((1, 1))}, r"entries of info that are kept \(rew, success, state\), got 'obs'"),
        ([1, 2], {"rew": [1.0]}, r"rew must be float32 of shape \(2,\), got float64 of shape \(1,\)"),
        ([1], {"rew": [np.nan]}, "rew must be finite, got NaN or infinity"),
        ([1], {"success": [1.0]}, r"info/success must be bool of shape \(1,\), got float64"),
        ([1], {"state": np.zeros((1, 3), np.float32)}, "state must be nested as it is stored"),
        ([1.5], {"rew": [1.0]}, r"ids must be integers of shape \(n,\), got float64 of shape \(1,\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(ids: Any, values: Any, message: str) -> None:
    memory = memory_of()
    before = everything(memory).rew
    with pytest.raises(ValueError, match=message):
        memory.write(ids, **values)
    with pytest.raises(ValueError, match=message):
        memory.write(ids, **({"rew": [5.0] * len(ids)} | values))
    assert torch.equal(everything(memory).rew, before)


def test_a_memory_without_rows_says_so() -> None:
    with pytest.raises(EmptyMemoryError, match="holds 0 transitions"):
        ReplayMemory().write([0], rew=[1.0])


def test_checksums_follow() -> None:
    memory = memory_of(crc_debug=True)
    memory.write([4], rew=[44.0])
    assert memory.sample().rew.max() == 44
    assert memory.get_transition(3)[2] == 44


def test_a_draw_sees_a_row_as_it_was_or_as_it_is() -> None:
    """B41: two fields are always written together."""
    memory = memory_of(batch_size=512)
    stop = threading.Event()

    def keep_writing() -> None:
        value = 0
        while not stop.is_set():
            value += 1
            state = {"h": np.full((9, 3), value, np.float32)}
            memory.write(np.arange(1, 10), rew=np.full(9, value), state=state)

    thread = threading.Thread(target=keep_writing)
    memory.write(np.arange(1, 10), rew=np.zeros(9), state={"h": np.zeros((9, 3), np.float32)})
    thread.start()
    try:
        for _ in range(300):
            batch = memory.sample()
            assert (batch.info["state"]["h"] == batch.rew[:, None]).all()
    finally:
        stop.set()
        thread.join(30)


def test_saving_again_writes_changed_rows_anew(tmp_path: Path) -> None:
    memory = memory_of(900, memory_size=999)
    memory.save(tmp_path)
    before = set(tmp_path.glob("*.rows.npy"))
    memory.write([100, 5], rew=[-1.0, -2.0])
    memory.save(tmp_path)
    loaded = ReplayMemory.load(tmp_path)
    assert torch.equal(everything(loaded).rew, everything(memory).rew)
    assert loaded.get_transition(99)[2] == -1
    memory.write([800], rew=[1.5])
    after = set(tmp_path.glob("*.rows.npy"))
    memory.save(tmp_path)
    n_segments = 900 // segment_rows(1000)
    assert len(before & after) == n_segments - 2
    assert len(after & set(tmp_path.glob("*.rows.npy"))) == n_segments - 1


class TestInAFolder:
    def test_changes_live_on(self, tmp_path: Path) -> None:
        with memory_of(storage_path=tmp_path) as memory:
            memory.write([3], rew=[33.0])
            memory._state.abandon()
        with ReplayMemory(storage_path=tmp_path, info_keys=("success", "state")) as memory:
            assert memory.stats().damaged == 0
            assert memory.get_transition(2)[2] == 33

    @pytest.mark.parametrize("is_cut", [False, True])
    def test_a_kill_in_the_middle_leaves_each_row_as_it_was_or_is_to_be(
        self, is_cut: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = memory_of(storage_path=tmp_path)

        def die(self: Any, late: Any) -> None:
            self.rows["rew"][late["links"]["id"][:1]] = 12345  # torn, and not what it is to be
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(stored_ring.StoredRing, "_finish_late", die)
            with pytest.raises(KeyboardInterrupt):
                memory.write([3, 4], rew=[33.0, 44.0])
        memory._state.abandon()
        (late,) = tmp_path.glob("*.late.npy")
        if is_cut:
            late.write_bytes(late.read_bytes()[:-20])
            with pytest.raises(ValueError, match=r"late\.npy is damaged: .*; remove it to go on without"):
                ReplayMemory(storage_path=tmp_path, info_keys=("success", "state"))
            return
        with ReplayMemory(storage_path=tmp_path, info_keys=("success", "state")) as memory:
            assert memory.stats().damaged == 0
            assert everything(memory).rew.tolist() == [1, 2, 33, 44, 5, 6, 7, 8, 9]
        assert not late.exists()
