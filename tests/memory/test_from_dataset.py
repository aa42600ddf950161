"""Datasets into a memory: the transitions that the samples would have made, and nothing that does not fit."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings

from makers import buffer_of, plain_episode, stamped, with_crc
from recordings import assert_same_rows, dataset_of, datasets, episode_of, random_rows, schema_like
from tmrl.chunk import chunks_of
from tmrl.datasets import About, Dataset, EpisodeList, export
from tmrl.datasets.samples import episodes_of, schema_of
from tmrl.errors import DatasetError
from tmrl.memory import ReplayMemory
from tmrl.packing import Packer

SCHEMA = schema_like(np.zeros(2, np.float32), np.zeros(1, np.float32))


def transitions_of(dataset: Dataset) -> list[bytes]:
    """The oracle: each two rows of an episode that follow each other, in their order."""
    return [
        episode.rows[i].tobytes() + episode.rows[i + 1].tobytes()
        for episode in dataset.episodes()
        for i in range(len(episode.rows) - 1)
    ]


def held(memory: ReplayMemory) -> list[bytes]:
    store = memory._store
    assert store is not None
    pairs = store.draw(np.arange(len(memory))).pairs
    return [store.ring.rows[first].tobytes() + store.ring.rows[second].tobytes() for first, second in pairs]


def memory_of(**kwargs: Any) -> ReplayMemory:
    return ReplayMemory(**{"batch_size": 8, "seed": 0, "finite": (), "memory_size": 10_000, **kwargs})


@settings(max_examples=60, deadline=None)
@given(datasets())
def test_exactly_the_transitions_of_the_episodes_are_held(dataset: EpisodeList) -> None:
    memory = memory_of(info_keys=tuple(dataset.schema.info), crc_debug=dataset.schema.with_crc)
    memory.append_dataset(dataset)
    if len(dataset):
        assert held(memory) == transitions_of(dataset)
        assert memory.stats().rows == dataset.n_rows
        assert memory.stats().duplicates == 0
    else:
        assert memory.schema is None


def test_the_same_dataset_may_be_appended_twice_and_workers_go_on() -> None:
    """Streams of a dataset are nobody else's, even where the worker has the same name."""
    episode = stamped(plain_episode(6))
    schema = schema_of(episode, ())
    recorded = EpisodeList(schema, About("native"), episodes_of(chunks_of(episode[:4], Packer(schema))))
    memory = memory_of()
    memory.append(buffer_of(episode[:3]))
    for _ in range(2):
        memory.append_dataset(recorded)
    memory.append(buffer_of(episode[3:]))
    assert len(memory) == 6 + 3 + 3
    assert [memory.get_transition(i)[3][0] for i in range(12)] == [1, 2, 1, 2, 3, 1, 2, 3, 3, 4, 5, 6]


def test_labels_are_kept_or_replaced() -> None:
    dataset = dataset_of(SCHEMA, [5, 6])  # the second has an intervention
    memory = memory_of()
    memory.append_dataset(dataset)
    counts = {source: tally.appended for source, tally in memory.stats().sources.items()}
    assert counts == {"demo": 6, "online": 1, "intervention": 4}
    assert {worker: tally.appended for worker, tally in memory.stats().workers.items()} == {"w0": 5, "w1": 6}
    memory.append_dataset(dataset, source="old")
    assert memory.stats().sources["old"].appended == 11


def test_the_newest_whole_episodes_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    dataset = dataset_of(SCHEMA, [5, 6, 7, 8])
    for size, kept in ((25, 4), (24, 3), (20, 3), (19, 2), (14, 2), (13, 1), (7, 1)):
        caplog.clear()
        memory = memory_of(memory_size=size)
        memory.append_dataset(dataset)
        newest = EpisodeList(SCHEMA, About("x"), list(dataset.episodes(4 - kept)))
        assert held(memory) == transitions_of(newest)
        said = f"of its 4 episodes the newest {kept} are kept"
        assert (said in caplog.text) == (kept < 4)


def test_of_an_episode_that_does_not_fit_the_newest_rows_are_kept() -> None:
    dataset = dataset_of(SCHEMA, [5, 20])
    memory = memory_of(memory_size=10)
    memory.append_dataset(dataset)
    assert held(memory) == transitions_of(dataset)[-10:]


@pytest.mark.parametrize(("to", "name"), [("native", "data"), ("npz", "data.npz"), ("minari", "data")])
def test_a_memory_begins_with_any_format(to: Any, name: str, tmp_path: Path) -> None:
    dataset = dataset_of(SCHEMA, [5, 6])
    export(dataset, tmp_path / name, to=to)
    assert held(memory_of(dataset_path=tmp_path / name)) == transitions_of(dataset)
    assert held(memory_of(dataset_path=str(tmp_path / name))) == transitions_of(dataset)


def test_a_memory_begins_with_a_data_pkl(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = plain_episode(3) + plain_episode(2, first=10)
    (tmp_path / "data.pkl").write_bytes(pickle.dumps([list(column) for column in zip(*samples, strict=True)]))
    with caplog.at_level(logging.WARNING):
        memory = ReplayMemory(dataset_path=tmp_path)
    assert [memory.get_transition(i)[3][0] for i in range(5)] == [1, 2, 3, 11, 12]
    assert memory.stats().sources["dataset"].appended == 7
    assert memory.data == []
    assert "pickle dataset: the samples were taken for consecutive steps of one worker" in caplog.text


def test_a_path_without_a_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found an empty folder"):
        ReplayMemory(dataset_path=tmp_path)


def test_an_empty_dataset_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    memory = memory_of(dataset_path="")
    memory.append_dataset(dataset_of(SCHEMA, []))
    assert memory.schema is None
    assert "the native dataset holds no episodes: nothing is appended" in caplog.text


def test_info_that_is_not_asked_for_is_left_out() -> None:
    schema = schema_like(1.0, 0.5, success=True, big=np.zeros(100))
    dataset = dataset_of(schema, [5])
    memory = memory_of(info_keys=("success",))
    memory.append_dataset(dataset)
    assert memory.schema is not None
    assert list(memory.schema.info) == ["success"]
    assert [memory.get_transition(i)[6]["success"] for i in range(4)] == dataset.episode(0).rows[
        "info/success"
    ][1:].tolist()


def test_info_that_is_missing_is_an_error() -> None:
    with pytest.raises(
        DatasetError, match=r"info_keys must name entries that the dataset has \(none\), got 'x'"
    ):
        memory_of(info_keys=("x",)).append_dataset(dataset_of(SCHEMA, [5]))


def test_spaces_and_rows_that_are_held_must_agree() -> None:
    dataset = dataset_of(SCHEMA, [5])
    fitting = memory_of(observation_space=spaces.Box(-1, 1, (2,)), action_space=spaces.Box(-1, 1, (1,)))
    fitting.append_dataset(dataset)
    assert len(fitting) == 4
    other = memory_of(observation_space=spaces.Box(-1, 1, (2,), np.float64))
    with pytest.raises(
        DatasetError, match=r"must have obs: float64 of shape \(2,\), as the memory has, found float32"
    ):
        other.append_dataset(dataset)
    assert other.schema is None
    held_before = memory_of()
    held_before.append(buffer_of(plain_episode(3)))
    with pytest.raises(DatasetError, match=r"must have obs: float32 of shape \(1,\), as the memory has"):
        held_before.append_dataset(dataset)
    assert len(held_before) == 3
    partial = memory_of(observation_space=spaces.Dict({"a": spaces.Box(-1, 1, (2,))}))
    more = dataset_of(schema_like({"a": np.zeros(2, np.float32), "b": 1.0}), [5])
    with pytest.raises(DatasetError, match="the memory must have obs/b, as the dataset has"):
        partial.append_dataset(more)


def test_checksums_are_checked_and_must_be_there() -> None:
    samples = with_crc(stamped(plain_episode(6)))
    schema = schema_of(samples, ())
    dataset = EpisodeList(schema, About("native"), episodes_of(chunks_of(samples, Packer(schema))))
    memory = memory_of(crc_debug=True)
    memory.append_dataset(dataset)
    memory.sample()
    assert memory.stats().crc_checked == 8
    memory_of().append_dataset(dataset)
    with pytest.raises(
        DatasetError, match="crc_debug needs the checksums of the workers, but the dataset has none"
    ):
        memory_of(crc_debug=True).append_dataset(dataset_of(SCHEMA, [5]))


def test_numbers_that_must_be_finite_are() -> None:
    rows = random_rows(SCHEMA, 4, np.random.default_rng(0))
    rows["act"] = rows["rew"] = 0
    rows["act"][2] = np.nan
    dataset = EpisodeList(SCHEMA, About("native"), [episode_of(rows)])
    with pytest.raises(DatasetError, match="act must be finite, but episode 0 of the dataset holds NaN"):
        memory_of(finite=("act",)).append_dataset(dataset)


def test_resets_that_wait_are_not_lost() -> None:
    """A reset has no action, so it waits for a schema; a dataset may bring it."""
    episode = stamped(plain_episode(3), worker="bob")
    schema = schema_of(episode, ())
    recorded = EpisodeList(
        schema, About("native"), episodes_of(chunks_of(stamped(plain_episode(2)), Packer(schema)))
    )
    memory = memory_of()
    memory.append(buffer_of(episode[:1]))
    memory.append_dataset(recorded)
    memory.append(buffer_of(episode[1:]))
    assert len(memory) == 5


def test_a_memory_with_a_dataset_goes_on_after_save_and_load(tmp_path: Path) -> None:
    """B48: streams of datasets are saved as all others are."""
    dataset = dataset_of(SCHEMA, [5, 6])
    memory = memory_of()
    memory.append_dataset(dataset)
    memory.save(tmp_path)
    loaded = ReplayMemory.load(tmp_path, dataset_path=tmp_path)
    for each in (memory, loaded):
        each.append_dataset(dataset)
    assert held(loaded) == held(memory)
    assert loaded.sample().ids.tolist() == memory.sample().ids.tolist()


def test_what_is_appended_is_copied() -> None:
    rows = random_rows(SCHEMA, 4, np.random.default_rng(0))
    kept = rows.copy()
    memory = memory_of()
    memory.append_dataset(EpisodeList(SCHEMA, About("native"), [episode_of(rows, "open")]))
    rows["obs"] = 0
    store = memory._store
    assert store is not None
    assert_same_rows(kept, store.ring.rows[:4], SCHEMA)
