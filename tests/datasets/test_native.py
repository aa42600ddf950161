"""Our own folder: whole episodes come back bit by bit, or not at all."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings

from damage import damage
from recordings import (
    assert_same,
    assert_same_rows,
    dataset_of,
    datasets,
    episode_of,
    random_rows,
    schema_like,
)
from tmrl.datasets import About, Dataset, DatasetWriter, Episode, EpisodeList, files, open_dataset
from tmrl.datasets import writer as writing
from tmrl.datasets.native import NativeDataset
from tmrl.errors import DatasetError

SCHEMA = schema_like(
    {"camera": np.zeros((4, 4), np.uint8), "speed": 0.5}, np.zeros(2, np.float32), success=True
)


def write(dataset: Dataset, folder: Path, **kwargs: Any) -> NativeDataset:
    with DatasetWriter(folder, dataset.schema, **kwargs) as writer:
        for episode in dataset.episodes():
            writer.write(episode)
    return NativeDataset(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(datasets())
def test_any_nest_dtype_ending_and_label_comes_back(tmp_path: Path, dataset: EpisodeList) -> None:
    for durable in (False, True):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert_same(dataset, write(dataset, tmp_path / "out", durable=durable))


def test_episodes_are_gathered_into_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BYTES_PER_SEGMENT", 40 * SCHEMA.row_dtype.itemsize)
    dataset = dataset_of(SCHEMA, [10, 20, 15, 100, 1, 2, 50])
    found = write(dataset, tmp_path)
    assert [segment.n_rows for segment in found.index.segments] == [45, 100, 53]
    assert_same(dataset, found)
    for index in (-1, 6, 3, 0, -7):
        assert_same_rows(dataset.episode(index).rows, found.episode(index).rows, SCHEMA)


def test_environment_and_spaces_come_back(tmp_path: Path) -> None:
    space = spaces.Dict({"camera": spaces.Box(0, 255, (4, 4), np.uint8), "speed": spaces.Box(-1, np.inf)})
    dataset = dataset_of(SCHEMA, [3], about=About("native", "Car-v0", space, spaces.Discrete(3, start=1)))
    writing.write_native(dataset, tmp_path / "out", drop=False)
    about = open_dataset(tmp_path / "out").about
    assert (about.kind, about.environment, about.assumptions) == ("native", "Car-v0", ())
    assert about.observation_space == space
    assert about.action_space == spaces.Discrete(3, start=1)


def test_rows_are_plain_npy_with_a_checksum_each(tmp_path: Path) -> None:
    dataset = dataset_of(SCHEMA, [5])
    write(dataset, tmp_path)
    (file,) = tmp_path.glob("*.rows.npy")
    (checks,) = tmp_path.glob("*.checks.npy")
    rows = np.load(file)
    assert_same_rows(dataset.episode(0).rows, rows, SCHEMA)
    assert np.load(checks).tolist() == files.row_checks(rows).tolist()


def test_rows_that_are_read_cannot_be_written_to(tmp_path: Path) -> None:
    rows = write(dataset_of(SCHEMA, [5]), tmp_path).episode(0).rows
    with pytest.raises(ValueError, match="read-only"):
        rows["rew"][0] = 1


def test_a_folder_may_be_appended_to_only_if_asked(tmp_path: Path) -> None:
    dataset = dataset_of(SCHEMA, [5, 6, 7])
    for episode in dataset.episodes():
        one = EpisodeList(SCHEMA, About("native"), [episode])
        write(one, tmp_path, append=True)
    assert_same(dataset, NativeDataset(tmp_path))
    with pytest.raises(DatasetError, match="holds a dataset already; choose another folder"):
        DatasetWriter(tmp_path, SCHEMA)
    with pytest.raises(DatasetError, match=r"holds rows of another layout, .* write to another folder"):
        DatasetWriter(tmp_path, schema_like(1), append=True)
    assert_same(dataset, NativeDataset(tmp_path))


def test_foreign_folders_and_files_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        DatasetError, match=r"must be empty or written by this package, but holds 'thesis\.tex'"
    ):
        DatasetWriter(tmp_path, SCHEMA)
    with pytest.raises(DatasetError, match="must be a folder, but is a file; choose another name"):
        DatasetWriter(tmp_path / "thesis.tex", SCHEMA)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_no_episode_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = random_rows(SCHEMA, 5, rng)
    with DatasetWriter(tmp_path, SCHEMA) as writer:
        with pytest.raises(ValueError, match="an episode must be at least 1 row of Schema"):
            writer.write(Episode(rows[:0], "ann", "demo"))
        with pytest.raises(ValueError, match="an episode must be at least 1 row of Schema"):
            writer.write(Episode(random_rows(schema_like(1), 3, rng), "ann", "demo"))
        rows["truncated"][2] = True
        with pytest.raises(ValueError, match="must end with the first row that is terminated or truncated"):
            writer.write(Episode(rows, "ann", "demo"))
        writer.write(Episode(rows[:3], "ann", "demo"))
    assert len(NativeDataset(tmp_path)) == 1
    with pytest.raises(ValueError, match="must be open, but it was closed"):
        writer.write(Episode(rows[:3], "ann", "demo"))
    writer.close()


def test_rows_are_copied(tmp_path: Path) -> None:
    """B39: what was written does not change with the caller's array."""
    rows = random_rows(SCHEMA, 5, np.random.default_rng(0))
    kept = rows.copy()
    with DatasetWriter(tmp_path, SCHEMA) as writer:
        writer.write(Episode(rows, "ann", "demo"))
        rows["obs/speed"] = 0
    assert_same_rows(kept, NativeDataset(tmp_path).episode(0).rows, SCHEMA)


@pytest.mark.parametrize("durable", [False, True])
def test_an_exception_leaves_what_was_there(durable: bool, tmp_path: Path) -> None:
    """Durable: each episode that was written; else: nothing of a dataset that is not whole."""
    dataset = dataset_of(SCHEMA, [5, 6])
    write(EpisodeList(SCHEMA, About("native"), [dataset.episode(0)]), tmp_path)

    def interrupted() -> None:
        with DatasetWriter(tmp_path, SCHEMA, durable=durable, append=True) as writer:
            writer.write(dataset.episode(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(NativeDataset(tmp_path)) == (2 if durable else 1)
    assert len(list(tmp_path.iterdir())) == (5 if durable else 3)


@pytest.mark.parametrize("failing_call", range(8))
def test_a_write_that_fails_closes_the_writer_and_leaves_what_was_there(
    failing_call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_of(SCHEMA, [5, 6, 7])
    calls = 0
    sync = files.sync

    def fail(stream: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_call + 1:
            raise OSError("no space left")
        sync(stream)

    monkeypatch.setattr(files, "sync", fail)
    written = 0
    with DatasetWriter(tmp_path, SCHEMA, durable=True) as writer:
        for episode in dataset.episodes():
            try:
                writer.write(episode)
            except OSError:
                break
            written += 1
        with pytest.raises(ValueError, match="it was closed"):
            writer.write(episode)
    assert written == failing_call // 3
    if written:
        first = EpisodeList(SCHEMA, About("native"), list(dataset.episodes())[:written])
        assert_same(first, NativeDataset(tmp_path))


def test_two_writers_of_one_folder_do_not_undo_each_other(tmp_path: Path) -> None:
    dataset = dataset_of(SCHEMA, [5, 6])
    first = DatasetWriter(tmp_path, SCHEMA, durable=True)
    second = DatasetWriter(tmp_path, SCHEMA, durable=True)
    first.write(dataset.episode(0))
    with pytest.raises(DatasetError, match="was written to by somebody else meanwhile; one writer at a time"):
        second.write(dataset.episode(1))
    assert len(NativeDataset(tmp_path)) == 1


RECORDER = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from recordings import dataset_of, schema_like
from tmrl.datasets import DatasetWriter
SCHEMA = schema_like({"camera": np.zeros((4, 4), np.uint8)}, np.zeros(2, np.float32), success=True)
with DatasetWriter(sys.argv[1], SCHEMA, durable=True) as writer:
    for episode in dataset_of(SCHEMA, [5, 50, 7] * 100).episodes():
        writer.write(episode)
        print("written", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="kills with a POSIX signal")
@pytest.mark.parametrize("n_written", [1, 2, 7, 20])
def test_kill_leaves_every_episode_that_was_written(n_written: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RECORDER, str(tmp_path), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(n_written):
            assert child.stdout.readline() == "written\n"
        child.send_signal(signal.SIGKILL)
    found = NativeDataset(tmp_path)
    assert len(found) >= n_written
    expected = dataset_of(found.schema, ([5, 50, 7] * 100)[: len(found)])
    assert_same(expected, found)
    # The next recording goes on there, and cleans up.
    with DatasetWriter(tmp_path, found.schema, durable=True, append=True) as writer:
        writer.write(expected.episode(0))
    assert len(NativeDataset(tmp_path)) == len(found) + 1
    assert len(list(tmp_path.iterdir())) == 1 + 2 * (len(found) + 1)


# Damage and malice


def test_damage_is_refused_by_name_or_harmless(tmp_path: Path) -> None:
    dataset = dataset_of(SCHEMA, [5, 6, 7])
    write(dataset, tmp_path / "whole", durable=True)
    rng = np.random.default_rng(0)
    for case in range(100):
        folder = tmp_path / str(case)
        shutil.copytree(tmp_path / "whole", folder)
        file = sorted(folder.iterdir())[rng.integers(len(list(folder.iterdir())))]
        damage(file, rng, is_cut=case % 4 == 0)
        message = why_refused(folder, dataset)
        assert message is None or str(folder) in message
        shutil.rmtree(folder)


def why_refused(folder: Path, dataset: Dataset) -> str | None:
    """The message; None if all is read, and then it is the same as ever."""
    try:
        episodes = list(open_dataset(folder).episodes())
    except DatasetError as error:
        return str(error)
    assert_same(dataset, EpisodeList(dataset.schema, dataset.about, episodes))
    return None


def forge(folder: Path, **changes: Any) -> None:
    """Changes a manifest and makes its checksum right."""
    body, _ = files.read_manifest(folder)
    files.replace_manifest(folder, body | changes)


def test_missing_file_is_named(tmp_path: Path) -> None:
    write(dataset_of(SCHEMA, [5]), tmp_path)
    next(tmp_path.glob("*.rows.npy")).unlink()
    with pytest.raises(DatasetError, match=r"is incomplete: '.*rows\.npy' is missing"):
        NativeDataset(tmp_path).episode(0)


def test_segment_that_names_a_path_is_refused(tmp_path: Path) -> None:
    """Nothing outside the folder is opened."""
    write(dataset_of(SCHEMA, [5]), tmp_path / "data")
    (segment,) = files.read_manifest(tmp_path / "data")[0]["segments"]
    for file in (tmp_path / "data").glob("*.npy"):
        file.rename(tmp_path / file.name)
    for name in (f"../{segment['name']}", str(tmp_path / segment["name"])):
        forge(tmp_path / "data", segments=[segment | {"name": name}])
        with pytest.raises(DatasetError, match="is incomplete"):
            NativeDataset(tmp_path / "data").episode(0)


def test_array_of_objects_is_refused(tmp_path: Path) -> None:
    write(dataset_of(SCHEMA, [5]), tmp_path)
    (segment,) = files.read_manifest(tmp_path)[0]["segments"]
    file = tmp_path / f"{segment['name']}.rows.npy"
    np.save(file, np.array([print], object), allow_pickle=True)
    forge(tmp_path, segments=[segment | {"rows_crc": crc32(file.read_bytes())}])
    with pytest.raises(DatasetError, match="holds no plain array"):
        NativeDataset(tmp_path).episode(0)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (None, "its list of episodes must be what this package writes"),
        ({}, "its list of episodes must be what this package writes"),
        ({"rows": [5, 6], "origin": [0], "gaps": [], "changes": []}, "what this package writes"),
        ({"rows": [5, 6, 7], "origin": [0, 9, 0], "gaps": [], "changes": []}, "what this package writes"),
        ({"rows": [5, 6], "origin": [0, 0], "gaps": [], "changes": []}, "its episodes do not fill its files"),
        ({"rows": [6, 5, 7], "origin": [0] * 3, "gaps": [], "changes": []}, "do not fill its files"),
        ({"rows": [5, 6, 10**30], "origin": [0] * 3, "gaps": [], "changes": []}, "do not fill its files"),
        ({"rows": [5, 13, 0], "origin": [0] * 3, "gaps": [], "changes": []}, "must have at least 1 row"),
        ({"rows": [5, 6.0, 7], "origin": [0] * 3, "gaps": [], "changes": []}, "must have at least 1 row"),
        (
            {"rows": [5, 6, 7], "origin": [0] * 3, "gaps": [], "changes": [[0, [[5, "x"]]]]},
            "a label changes outside of its episode",
        ),
    ],
)
def test_manifest_that_contradicts_itself_is_refused(episodes: Any, message: str, tmp_path: Path) -> None:
    write(dataset_of(SCHEMA, [5, 6, 7]), tmp_path, durable=True)
    forge(tmp_path, episodes=episodes)
    with pytest.raises(DatasetError, match=rf"manifest\.json cannot be read: .*{message}"):
        NativeDataset(tmp_path)


def test_segments_in_another_order_are_refused(tmp_path: Path) -> None:
    write(dataset_of(SCHEMA, [5, 6, 7]), tmp_path, durable=True)
    segments = files.read_manifest(tmp_path)[0]["segments"]
    forge(tmp_path, segments=segments[::-1])
    with pytest.raises(DatasetError, match="do not fill its files"):
        NativeDataset(tmp_path)
    # Declared as large as anybody likes, it is compared with what is there.
    huge = [segments[0] | {"n_rows": 2**40}]
    counts = {"rows": [2**40], "origin": [0], "gaps": [], "changes": []}
    forge(tmp_path, segments=huge, episodes=counts)
    with pytest.raises(DatasetError, match="must hold 1099511627776 rows"):
        NativeDataset(tmp_path).episode(0)


def test_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    files.replace_manifest(tmp_path, {"kind": "checkpoint"})
    with pytest.raises(DatasetError, match="must hold a dataset, found a checkpoint"):
        NativeDataset(tmp_path)


def test_open_episode_ends_without_a_flag(tmp_path: Path) -> None:
    episode = episode_of(random_rows(SCHEMA, 4, np.random.default_rng(0)), "open")
    found = write(EpisodeList(SCHEMA, About("native"), [episode]), tmp_path).episode(0)
    assert (found.is_terminated, found.is_truncated, found.length) == (False, False, 3)
