"""A memory that lives in a folder, looked at from outside: as a dataset, exported, inspected, verified."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from makers import buffer_of, plain_episode, stamped
from tmrl.datasets import export, open_dataset
from tmrl.datasets.files import read_manifest, replace_manifest
from tmrl.datasets.row_file import RowFile, info_in
from tmrl.errors import DatasetError
from tmrl.inspection.contents import read_contents
from tmrl.inspection.facts import read_facts
from tmrl.inspection.verdict import verify
from tmrl.memory import ReplayMemory
from tmrl.schema_json import schema_from_json


def fill(memory: ReplayMemory, n_episodes: int) -> None:
    """Two workers' episodes of five steps, step by step in turns."""
    for episode in range(n_episodes):
        sent = [
            stamped(plain_episode(5, first=100 * episode + 10 * i), worker, 6 * episode, episode)
            for i, worker in enumerate(("ann", "bob"))
        ]
        for pair in zip(*sent, strict=True):
            for sample in pair:
                memory.append(buffer_of([sample]))


def living(folder: Path, n_episodes: int = 6, **kwargs: Any) -> ReplayMemory:
    memory = ReplayMemory(memory_size=39, batch_size=4, seed=0, storage_path=folder, **kwargs)
    fill(memory, n_episodes)
    return memory


def damage(folder: Path, *row_ids: int) -> None:
    document, _ = read_manifest(folder)
    info = info_in(document)
    assert info is not None
    file = RowFile(folder, info, schema_from_json(document["schema"]).row_dtype, "r+")
    for row_id in row_ids:
        file.rows["rew"][row_id % info.n_rows] += 1


def transitions_of(path: Path) -> set[tuple[float, float]]:
    return {
        (float(before["obs"][0]), float(after["obs"][0]))
        for episode in open_dataset(path).episodes()
        for before, after in zip(episode.rows, episode.rows[1:], strict=False)
    }


def transitions_in(memory: ReplayMemory) -> set[tuple[float, float]]:
    return {
        (float(prev_obs[0]), float(obs[0]))
        for prev_obs, _, _, obs, *_ in (memory.get_transition(i) for i in range(len(memory)))
    }


@pytest.mark.parametrize("is_open", [True, False])
def test_its_episodes_are_its_transitions(is_open: bool, tmp_path: Path) -> None:
    with living(tmp_path / "memory") as memory:
        expected = transitions_in(memory)
        if is_open:
            assert transitions_of(tmp_path / "memory") == expected
    assert transitions_of(tmp_path / "memory") == expected
    export(tmp_path / "memory", tmp_path / "copy")
    assert transitions_of(tmp_path / "copy") == expected
    again = ReplayMemory(dataset_path=tmp_path / "copy")
    assert transitions_in(again) == expected


def test_rows_that_are_not_in_the_manifest_yet_are_seen(tmp_path: Path) -> None:
    memory = living(tmp_path)
    expected = transitions_in(memory)
    memory._state.abandon()
    dataset = open_dataset(tmp_path)
    assert read_manifest(tmp_path)[0]["next"] < 72
    assert read_facts(tmp_path, dataset).row_ids == range(32, 72)
    assert transitions_of(tmp_path) == expected


def test_what_is_in_it_is_summed_up(tmp_path: Path) -> None:
    living(tmp_path).close()
    dataset = open_dataset(tmp_path)
    contents, facts = read_contents(dataset), read_facts(tmp_path, dataset)
    assert (facts.capacity, facts.row_ids, facts.newest) == (39, range(32, 72), {"ann": 70, "bob": 71})
    assert contents.n_rows == 40
    assert sum(counts.appended for counts in facts.tally.counts) == 72


def test_damage_is_told_to_the_row_and_left_out(tmp_path: Path) -> None:
    living(tmp_path).close()
    expected = transitions_of(tmp_path)
    assert verify(open_dataset(tmp_path)).is_sound
    damage(tmp_path, 50, 47)
    assert list(open_dataset(tmp_path).damage()) == [
        f"{tmp_path} is damaged: row 47 is the first of 2 bad rows"
    ]
    assert not verify(open_dataset(tmp_path)).is_sound
    left = transitions_of(tmp_path)
    assert left < expected
    assert len(expected) - len(left) in {2, 3, 4}
    # Its owner takes them out, and what is saved after that is sound.
    with ReplayMemory(memory_size=39, storage_path=tmp_path) as memory:
        assert transitions_in(memory) == left
        memory.save(tmp_path.with_name(f"{tmp_path.name}-saved"))
    assert verify(open_dataset(tmp_path)).is_sound
    assert transitions_of(tmp_path.with_name(f"{tmp_path.name}-saved")) == left


def test_newest_rows_that_are_missing_are_told(tmp_path: Path) -> None:
    living(tmp_path).close()
    document, _ = read_manifest(tmp_path)
    replace_manifest(tmp_path, document | {"next": 75})
    assert list(open_dataset(tmp_path).damage()) == [
        f"{tmp_path} is incomplete: the newest 3 rows are missing"
    ]


def test_one_that_has_no_rows_yet_is_empty(tmp_path: Path) -> None:
    memory = ReplayMemory(storage_path=tmp_path)
    memory.append(buffer_of([(None, np.zeros(1), 0.0, False, False, {})]))
    assert len(open_dataset(tmp_path)) == 0
    assert list(open_dataset(tmp_path).damage()) == []
    memory.close()


def test_rows_that_go_while_they_are_read_are_told(tmp_path: Path) -> None:
    memory = living(tmp_path)
    dataset = open_dataset(tmp_path)
    fill(memory, 12)
    with pytest.raises(DatasetError, match="was written to while it was read, and rows are gone; read"):
        list(dataset.episodes())
    memory.close()


def test_manifest_of_something_else_is_told(tmp_path: Path) -> None:
    living(tmp_path).close()
    document, _ = read_manifest(tmp_path)
    replace_manifest(tmp_path, document | {"state": {}})
    with pytest.raises(DatasetError, match=r"manifest\.json must be of a memory, but: KeyError\('tally'\)"):
        open_dataset(tmp_path)


class TestBeginning:
    """A memory in a folder takes the data that it begins with once."""

    def test_data_are_not_taken_twice(self, tmp_path: Path) -> None:
        living(tmp_path / "recorded").close()
        begun = {"storage_path": tmp_path / "memory", "dataset_path": tmp_path / "recorded"}
        with ReplayMemory(**begun) as memory:
            expected = transitions_in(memory)
            fill(memory, 1)
            n = len(memory)
        with ReplayMemory(**begun) as memory:
            assert len(memory) == n > len(expected) > 20

    def test_data_that_were_taken_in_part_are_taken_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed within the constructor."""
        living(tmp_path / "recorded").close()
        begun = {"storage_path": tmp_path / "memory", "dataset_path": tmp_path / "recorded"}
        recorded = open_dataset(tmp_path / "recorded")
        half, whole = threading.Event(), type(recorded).episode

        def fail_in_the_middle(self: Any, index: int) -> Any:
            if index >= len(self) // 2 and not half.is_set():
                half.set()
                raise KeyboardInterrupt
            return whole(self, index)

        monkeypatch.setattr(type(recorded), "episode", fail_in_the_middle)
        with pytest.raises(KeyboardInterrupt):
            ReplayMemory(**begun)
        assert read_manifest(tmp_path / "memory")[0]["state"]["filling"]
        with ReplayMemory(**begun) as memory:
            assert transitions_in(memory) == transitions_of(tmp_path / "recorded")
            assert memory.stats().appended == memory.stats().rows
