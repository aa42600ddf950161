"""`.npz` files: ours come back bit by bit, those of others with what had to be assumed."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings

from recordings import assert_same, dataset_of, datasets, schema_like
from tmrl.datasets import About, EpisodeList, npz_file, open_dataset
from tmrl.datasets.npz import open_npz, write_npz
from tmrl.errors import DatasetError

SCHEMA = schema_like(
    {"camera": np.zeros((4, 4), np.uint8), "speed": 0.5}, np.zeros(2, np.float32), success=True
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(datasets())
def test_any_nest_dtype_ending_and_label_comes_back(tmp_path: Path, dataset: EpisodeList) -> None:
    out = tmp_path / "data.npz"
    out.unlink(missing_ok=True)
    assert write_npz(dataset, out, drop=False) == []
    found = open_dataset(out)
    assert_same(dataset, found)
    assert found.about.assumptions == ()
    assert list(tmp_path.iterdir()) == [out]


def test_bfloat16_environment_and_spaces_come_back(tmp_path: Path) -> None:
    import torch

    schema = schema_like(torch.zeros(3, dtype=torch.bfloat16), 0.5)
    about = About("native", "Car-v0", spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
    dataset = dataset_of(schema, [4, 5], about=about)
    write_npz(dataset, tmp_path / "data.npz", drop=False)
    found = open_npz(tmp_path / "data.npz")
    assert_same(dataset, found)
    assert (found.about.environment, found.about.action_space) == ("Car-v0", spaces.Discrete(2))


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    dataset = dataset_of(SCHEMA, [5, 6, 4])
    write_npz(dataset, tmp_path / "data.npz", drop=False)
    with np.load(tmp_path / "data.npz", allow_pickle=False) as file:
        columns = dict(file)
    assert columns["obs/camera"].shape == (15, 4, 4)
    assert columns["episode"].tolist() == [0] * 5 + [1] * 6 + [2] * 4
    assert columns["reset"].nonzero()[0].tolist() == [0, 5, 11]
    assert columns["worker"].tolist() == ["w0"] * 5 + ["w1"] * 6 + ["w2"] * 4
    assert columns["source"].tolist()[5:11] == ["online", *["intervention"] * 4, "demo"]
    expected = np.concatenate([episode.rows["obs/speed"] for episode in dataset.episodes()])
    assert columns["obs/speed"].tobytes() == expected.tobytes()


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.npz").write_text("years of work")
    for name in ("thesis.npz", "thesis.tex"):
        with pytest.raises(DatasetError, match=r"must be the name of a new file that ends in \.npz"):
            write_npz(dataset_of(SCHEMA, [3]), tmp_path / name, drop=False)
    assert (tmp_path / "thesis.npz").read_text() == "years of work"


# Files of others, one entry a sample


def samples(n: int = 6, **changes: Any) -> dict[str, Any]:
    """Two episodes of three samples; the first terminates, the second is truncated."""
    columns = {
        "obs": np.arange(n, dtype=np.float32),
        "act": np.arange(n, dtype=np.int64),
        "rew": np.arange(n) / 4,
        "terminated": np.arange(n) == 2,
        "truncated": np.arange(n) == 5,
        "episode": np.arange(n) // 3,
    }
    columns |= changes
    return {name: column for name, column in columns.items() if column is not None}


def saved(folder: Path, columns: dict[str, Any]) -> Path:
    np.savez(folder / "data.npz", **columns)
    return folder / "data.npz"


def rows_of(path: Path) -> list[list[float]]:
    return [episode.rows["obs"].tolist() for episode in open_npz(path).episodes()]


def test_foreign_samples_are_read_and_assumptions_are_said(tmp_path: Path) -> None:
    dataset = open_npz(saved(tmp_path, samples()))
    first, second = dataset.episodes()
    assert first.rows["obs"].tolist() == [0, 1, 2]
    assert first.rows["rew"].tolist() == [0, 0.25, 0.5]
    assert (first.is_terminated, second.is_truncated) == (True, True)
    assert (first.worker, first.source, first.begins) == ("data", "dataset", True)
    assert dataset.about.assumptions == (
        "there is no reset: the first sample of each episode was taken for its reset",
    )


def test_missing_truncation_leaves_an_episode_open(tmp_path: Path) -> None:
    dataset = open_npz(saved(tmp_path, samples(truncated=None)))
    assert [episode.is_truncated for episode in dataset.episodes()] == [False, False]
    assert (
        "there is no truncated: an episode that does not terminate was left open" in dataset.about.assumptions
    )


def test_missing_episode_numbers_are_found_by_the_flags(tmp_path: Path) -> None:
    assert rows_of(saved(tmp_path, samples(episode=None))) == [[0, 1, 2], [3, 4, 5]]


def test_episodes_are_cut_by_numbers_flags_and_resets(tmp_path: Path) -> None:
    reset = np.array([True, False, False, True, False, True])
    assert rows_of(saved(tmp_path, samples(reset=reset))) == [[0, 1, 2], [3, 4], [5]]
    late = np.array([True, False, False, False, False, False])
    dataset = open_npz(saved(tmp_path, samples(reset=late)))
    assert [episode.begins for episode in dataset.episodes()] == [True, False]


def test_without_any_sign_of_a_cut_nothing_is_read(tmp_path: Path) -> None:
    """B01: else the last sample of an episode and the reset after it would be a transition."""
    with pytest.raises(DatasetError, match="transitions would be made up"):
        open_npz(saved(tmp_path, samples(truncated=None, episode=None)))


def test_nests_are_made_of_the_names(tmp_path: Path) -> None:
    nest = {
        "obs/arms/0": np.zeros((6, 2)),
        "obs/arms/1": np.zeros(6, np.uint8),
        "obs/a~1b": np.zeros(6, np.int16),
    }
    dataset = open_npz(saved(tmp_path, samples(obs=None, **nest)))
    zeros = dataset.schema.obs.zeros()
    assert set(zeros) == {"a/b", "arms"}
    assert [leaf.dtype for leaf in zeros["arms"]] == [np.float64, np.uint8]


def test_info_that_rows_can_hold_is_kept_and_the_rest_is_named(tmp_path: Path) -> None:
    columns = samples() | {"info/ok": np.ones(6), "info/text": np.array(["a"] * 6), "note": np.zeros(3)}
    dataset = open_npz(saved(tmp_path, columns))
    assert list(dataset.schema.info) == ["ok"]
    assert "note was left out" in dataset.about.assumptions
    assert any(
        "info/text was left out: info/text must hold numbers" in line for line in dataset.about.assumptions
    )


def test_rounded_rewards_are_said(tmp_path: Path) -> None:
    dataset = open_npz(saved(tmp_path, samples(rew=np.full(6, 0.1))))
    assert "rewards of float64 were rounded to float32" in dataset.about.assumptions


def test_workers_and_sources_may_be_one_a_sample(tmp_path: Path) -> None:
    source = np.array(["demo", "demo", "human", "demo", "demo", "demo"])
    dataset = open_npz(saved(tmp_path, samples(source=source, worker=np.array("robot-7"))))
    assert [(e.worker, e.source, e.changes) for e in dataset.episodes()] == [
        ("robot-7", "demo", ((2, "human"),)),
        ("robot-7", "demo", ()),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs": None}, "must hold 'obs', but holds only act, episode, rew"),
        ({"rew": None}, "must hold 'rew', but holds only act"),
        ({"terminated": None}, "must hold 'terminated', but holds only act"),
        ({"rew": np.zeros(5)}, "its columns must be of one length, found {"),
        ({"rew": np.array(["a"] * 6)}, "rew must hold numbers, one a sample, found <U1"),
        ({"terminated": np.arange(6)}, "terminated must hold True or False, one a sample, found int64"),
        ({"obs": np.array(3.0)}, r"obs must have one entry of sensible size a sample, found shape \(\)"),
        ({"obs": np.array(["a"] * 6)}, "obs must hold numbers, found <U1"),
        ({"obs/x": np.zeros(6)}, "must be either an array or a nest, but is both"),
        ({"obs/" + "a/" * 40: np.zeros(6), "obs": None}, "a nest must be at most 32 deep"),
        ({"obs/a~b": np.zeros(6), "obs": None}, "names must be written as in obs/arms/0"),
        ({"episode": np.array([0, 1, 0, 1, 0, 1])}, "the samples of one episode must stand together"),
        ({"worker": np.zeros(6)}, "worker must be text, one or one a sample, found float64"),
        ({"schema": np.array("{")}, "schema must be JSON, as this package writes it"),
        ({"schema": np.array("[]")}, "schema must hold obs, act, info and with_crc"),
        ({"environment": np.array("[1]")}, "an environment must be a JSON object with an id"),
    ],
)
def test_what_is_no_dataset_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf"data\.npz is no dataset: .*{message}"):
        open_npz(saved(tmp_path, samples(**changes)))


# Files of others, one entry a transition


def transitions(**changes: Any) -> dict[str, Any]:
    """Episodes of 3, 2 and 1 transitions; the first terminates, the second is cut, the third is not over."""
    obs = np.array([0, 1, 2, 10, 11, 20], np.float32)
    columns = {
        "observations": obs[:, None],
        "next_observations": np.array([1, 2, 3, 11, 12, 21], np.float32)[:, None],
        "actions": -obs,
        "rewards": obs / 2,
        "terminals": np.array([0, 0, 1, 0, 0, 0]),
        "timeouts": np.array([0, 0, 0, 0, 1, 0], np.bool_),
    }
    columns |= changes
    return {name: column for name, column in columns.items() if column is not None}


def transitions_of(path: Path) -> list[tuple[float, float, float, float]]:
    """All `(prev_obs, act, rew, obs)` of a file."""
    found = []
    for episode in open_npz(path).episodes():
        obs, act, rew = (episode.rows[name].ravel().tolist() for name in ("obs", "act", "rew"))
        found += list(zip(obs[:-1], act[1:], rew[1:], obs[1:], strict=True))
    return found


ALL = [(0, 0, 0, 1), (1, -1, 0.5, 2), (2, -2, 1, 3), (10, -10, 5, 11), (11, -11, 5.5, 12), (20, -20, 10, 21)]


def test_transitions_with_next_observations_are_all_read(tmp_path: Path) -> None:
    """B07: the final observation of each episode, too."""
    path = saved(tmp_path, transitions())
    assert transitions_of(path) == ALL
    first, second, third = open_npz(path).episodes()
    assert (first.is_terminated, second.is_truncated, third.is_terminated, third.is_truncated) == (
        *(True, True),
        *(False, False),
    )
    assert open_npz(path).about.assumptions == ()


def test_without_final_observations_the_last_transitions_are_left_out(tmp_path: Path) -> None:
    path = saved(tmp_path, transitions(next_observations=None))
    assert transitions_of(path) == [ALL[0], ALL[1], ALL[3]]
    assert not any(e.is_terminated or e.is_truncated for e in open_npz(path).episodes())
    assert "the last transition of each episode was left out" in open_npz(path).about.assumptions[0]


def test_without_timeouts_cuts_are_seen_in_the_next_observations(tmp_path: Path) -> None:
    path = saved(tmp_path, transitions(timeouts=None, infos=np.zeros(6)))
    assert transitions_of(path) == ALL
    assert open_npz(path).about.assumptions == (
        "infos was left out",
        "there are no timeouts: an episode that does not terminate was left open",
        "1 episodes were cut where the next observation is not the one that comes next",
    )


def test_episode_numbers_tell_of_cuts_too(tmp_path: Path) -> None:
    numbers = np.array([0, 0, 0, 1, 1, 2])
    path = saved(tmp_path, transitions(timeouts=None, next_observations=None, episode=numbers))
    assert transitions_of(path) == [ALL[0], ALL[1], ALL[3]]


def test_transitions_that_might_be_made_up_are_refused(tmp_path: Path) -> None:
    """B01, B22."""
    with pytest.raises(DatasetError, match="must hold timeouts, next_observations or episode"):
        open_npz(saved(tmp_path, transitions(timeouts=None, next_observations=None)))
    with pytest.raises(DatasetError, match="next_observations must be as observations are"):
        open_npz(saved(tmp_path, transitions(next_observations=np.zeros(6))))


# Malice


def zipped(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    length = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + header.encode() + content


def plain(array: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (plain(np.array([print], object)), "but its header says .*'|O'"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }\n"), "not account"),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 99999999999999999999), }\n"),
            "dimension",
        ),
        (npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'9' * 5000},), }}\n"), "integer"),
        (npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1, ' * 100}), }}\n", bytes(4)), "dim"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"), "but its header says"),
        (npy("__import__('os').mkdir('hacked')\n"), "but its header says .*__import__"),
        (npy("(" * 9000), "but its header says"),
        (npy("1" * 20000), "but its header says"),
        (
            npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }\n", bytes(4)),
            "its header says",
        ),
        (npy("{'descr': '<M8', 'fortran_order': False, 'shape': (1,), }\n", bytes(8)), "but its header says"),
        (npy("{'descr': '<f3', 'fortran_order': False, 'shape': (1,), }\n", bytes(3)), "not understood"),
        (b"\x93NUMPY\x03\x00", "must be a plain array, in version 1 or 2"),
        (b"no array", "must be a plain array, in version 1 or 2"),
        (b"", "must be a plain array, in version 1 or 2"),
    ],
)
def test_malicious_arrays_are_refused(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = zipped(tmp_path / "data.npz", obs=content)
    with pytest.raises(
        DatasetError, match=rf"(?s)the array 'obs' of .*data\.npz cannot be read: .*{message}|damaged"
    ):
        open_npz(path)
    assert list(tmp_path.iterdir()) == [path]


def test_names_are_only_names(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.npz", **{"../../obs": plain(np.zeros(3)), "/etc/obs": plain(np.zeros(3))})
    with pytest.raises(DatasetError, match="must hold 'obs', but holds only"):
        open_npz(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_file, "FREE_BYTES", 1 << 16)
    path = zipped(tmp_path / "data.npz", obs=plain(np.zeros(1 << 20)))
    with pytest.raises(DatasetError, match="must unpack to at most 100 times its size, but its"):
        open_npz(path)


def test_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    dataset = dataset_of(SCHEMA, [5, 6, 7])
    write_npz(dataset, tmp_path / "whole.npz", drop=False)
    whole = (tmp_path / "whole.npz").read_bytes()
    rng = np.random.default_rng(0)
    for case in range(100):
        damaged = bytearray(whole)
        if case % 4 == 0:
            del damaged[rng.integers(len(damaged)) :]
        else:
            damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        path = tmp_path / "damaged.npz"
        path.write_bytes(damaged)
        message = why_refused(path, dataset)
        assert message is None or str(path) in message


def why_refused(path: Path, dataset: EpisodeList) -> str | None:
    """The message; None if all is read, and then it is the same as ever."""
    try:
        found = open_npz(path)
    except DatasetError as error:
        return str(error)
    assert_same(dataset, found)
    return None


def test_fortran_order_and_other_byte_orders_are_read(tmp_path: Path) -> None:
    obs = np.asfortranarray(np.arange(12, dtype=">i4").reshape(6, 2))
    dataset = open_npz(saved(tmp_path, samples(obs=obs)))
    assert dataset.episode(1).rows["obs"].tolist() == [[6, 7], [8, 9], [10, 11]]
    assert dataset.schema.obs.leaves[0].dtype == np.int32
