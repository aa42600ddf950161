"""The documented `data.pkl` as a dataset: episodes by the flags, and what it had to assume."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from makers import plain_episode, stamped, with_crc
from nests import SampleMaker, makers
from tmrl.datasets import open_dataset
from tmrl.datasets.pickled import open_pickled
from tmrl.errors import DatasetError, UnsafePickleError
from tmrl.memory import ReplayMemory

CONSECUTIVE = "the samples were taken for consecutive steps of one worker, because the file does not say"


def dumped(folder: Path, samples: list[Any], n_columns: int = 6) -> Path:
    """A folder with these samples in columns; the seventh is that of a documented layout, `done`."""
    columns = [list(column) for column in zip(*samples, strict=True)]
    columns.append([sample[3] or sample[4] for sample in samples])
    (folder / "data.pkl").write_bytes(pickle.dumps(columns[:n_columns]))
    return folder


@pytest.mark.parametrize("n_columns", [6, 7])
def test_columns_become_episodes(n_columns: int, tmp_path: Path) -> None:
    """B01, B07: final observations are there, and nothing joins two episodes."""
    samples = (
        plain_episode(3) + plain_episode(2, first=10, ending="truncated") + plain_episode(4, first=20)[:3]
    )
    folder = dumped(tmp_path, samples, n_columns)
    for path in (folder, folder / "data.pkl"):
        dataset = open_dataset(path)
        assert [episode.rows["obs"].ravel().tolist() for episode in dataset.episodes()] == [
            [0, 1, 2, 3],
            [10, 11, 12],
            [20, 21, 22],
        ]
        ends = [(episode.is_terminated, episode.is_truncated) for episode in dataset.episodes()]
        assert ends == [(True, False), (False, True), (False, False)]
        assert {(e.worker, e.source, e.begins) for e in dataset.episodes()} == {
            ("unstamped", "dataset", True)
        }
        assert (dataset.about.kind, dataset.about.assumptions) == ("pickle", (CONSECUTIVE,))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(make=makers())
def test_any_nest_of_builtin_containers_is_read(make: SampleMaker, tmp_path: Path) -> None:
    samples = [make(is_reset=i % 4 == 0, terminated=i % 4 == 3) for i in range(8)]
    if "Pose" in repr(make) or "OrderedDict" in repr(make):
        return
    dataset = open_dataset(dumped(tmp_path, samples))
    memory = ReplayMemory(batch_size=4)
    memory.append_dataset(dataset)
    assert len(memory) == 6
    assert list(dataset.schema.info) == ["n"]


def test_a_first_sample_with_an_action_is_no_reset(tmp_path: Path) -> None:
    dataset = open_pickled(dumped(tmp_path, plain_episode(4)[2:] + plain_episode(2)))
    assert [episode.begins for episode in dataset.episodes()] == [False, True]
    assert dataset.about.assumptions[1] == (
        "the first sample was not taken for a reset, because it has an action"
    )


def test_labels_in_info_are_kept(tmp_path: Path) -> None:
    samples = plain_episode(3)
    samples[2][5]["source"] = "intervention"
    (episode,) = open_pickled(dumped(tmp_path, samples)).episodes()
    assert (episode.source, episode.changes) == ("dataset", ((2, "intervention"), (3, "dataset")))


def test_info_that_every_step_has_is_kept_and_the_rest_is_named(tmp_path: Path) -> None:
    samples = plain_episode(2)
    for i, sample in enumerate(samples):
        sample[5].update({"ok": bool(i), "text": "a", "ragged": np.zeros(i), 3: 4})
    samples[1][5].update({"rare": 1.0})
    dataset = open_pickled(dumped(tmp_path, samples))
    assert list(dataset.schema.info) == ["ok"]
    said = "\n".join(dataset.about.assumptions)
    for line in (
        "'rare' of info was left out: not every step has it",
        "'3' of info",
        "'text' of",
        "'ragged' of",
    ):
        assert line in said


def test_checksums_are_kept(tmp_path: Path) -> None:
    folder = dumped(tmp_path, [tuple(sample) for sample in with_crc(stamped(plain_episode(5)))])
    memory = ReplayMemory(crc_debug=True, batch_size=16, dataset_path=folder)
    memory.sample()
    assert memory.stats().crc_checked == 16


def test_an_empty_file_of_columns_is_an_empty_dataset(tmp_path: Path) -> None:
    (tmp_path / "data.pkl").write_bytes(pickle.dumps([[]] * 6))
    assert len(open_dataset(tmp_path)) == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([[1]] * 9, "there are 9 columns"),
        ([[None], [1.0], [0.0], [False], [False], [{}]], "no sample has an action"),
        ([[1.0], [1.0], [0.0], [False], [False], [3]], "an info is a int"),
        ([[1.0, 2.0], [1.0], [0.0], [False], [False], [{}]], "argument 2 is shorter"),
        ([[1.0], ["a"], [0.0], [False], [False], [{}]], "obs is a str of dtype"),
        ([[1.0] * 2, [1.0, "a"], [0.0] * 2, [False] * 2, [False] * 2, [{}] * 2], "expected float64"),
    ],
)
def test_other_columns_are_refused(columns: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(columns))
    with pytest.raises(DatasetError, match=rf"data\.pkl must hold the columns act, obs, .*{message}"):
        open_dataset(tmp_path)


def test_a_pickle_that_names_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.pkl").write_bytes(pickle.dumps([print]))
    with pytest.raises(UnsafePickleError, match="nothing was run"):
        open_dataset(tmp_path)
