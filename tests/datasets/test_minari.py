"""Minari datasets: what is written is read by Minari's own reader, and what is read is what Minari gives."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from minari.data_collector import EpisodeBuffer

from recordings import assert_same, dataset_of, datasets, episode_of, random_rows, schema_like
from tmrl.datasets import About, EpisodeList, open_dataset
from tmrl.datasets import minari as importer
from tmrl.datasets.minari_export import write_minari
from tmrl.errors import DatasetError

OBS = {"camera": np.zeros((40, 40, 3), np.uint8), "arms": (np.zeros(2), np.int16(0)), "on": np.bool_(0)}
SCHEMA = schema_like(OBS, np.zeros(2, np.float32), success=True, pose={"angle": np.float16(0)})


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Minari's own root; nothing but it may be asked for, and the home stays as it is."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "root"


def dataset(lengths: tuple[int, ...] = (5, 6, 7, 2), **about: Any) -> EpisodeList:
    return dataset_of(SCHEMA, list(lengths), about=About("native", **about))


def test_an_environment_that_was_registered_as_a_class_has_a_name_and_no_specification(
    tmp_path: Path,
) -> None:
    gymnasium.register("Mine-v0", lambda: None)
    try:
        write_minari(dataset(environment="Mine-v0"), tmp_path / "car", drop=False)
    finally:
        del gymnasium.registry["Mine-v0"]
    assert minari.MinariDataset(tmp_path / "car" / "data").env_spec is None
    assert open_dataset(tmp_path / "car").about.environment == "Mine-v0"


def test_minari_reads_what_is_written(tmp_path: Path) -> None:
    """B07: final observations, flags, nests, dtypes and info."""
    expected = dataset()
    assert write_minari(expected, tmp_path / "car", drop=False) == []
    found = minari.MinariDataset(tmp_path / "car" / "data")
    assert (found.total_episodes, found.total_steps, found.id) == (4, 16, "car-v0")
    for ours, theirs in zip(expected.episodes(), found, strict=True):
        rows = ours.rows
        for name, column in (
            ("obs/camera", theirs.observations["camera"]),
            ("obs/arms/0", theirs.observations["arms"][0]),
            ("obs/arms/1", theirs.observations["arms"][1]),
            ("obs/on", theirs.observations["on"]),
            ("info/success", theirs.infos["success"]),
            ("info/pose/angle", theirs.infos["pose"]["angle"]),
        ):
            assert (column.dtype, column.tobytes()) == (rows[name].dtype, rows[name].tobytes())
        for name, column in (
            ("act", theirs.actions),
            ("rew", theirs.rewards),
            ("terminated", theirs.terminations),
            ("truncated", theirs.truncations),
        ):
            assert (column.dtype, column.tobytes()) == (rows[name].dtype, rows[name][1:].tobytes())
        assert found.observation_space["camera"].contains(theirs.observations["camera"][0])


def test_we_read_what_we_wrote(tmp_path: Path) -> None:
    """Labels, open episodes, and first rows with an action of their own."""
    expected = dataset()
    write_minari(expected, tmp_path / "car", drop=False)
    assert_same(expected, open_dataset(tmp_path / "car"))
    assert_same(expected, open_dataset(tmp_path / "car" / "data"))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(datasets())
def test_any_dataset_comes_back_or_is_refused(tmp_path_factory: Any, dataset: EpisodeList) -> None:
    out = tmp_path_factory.mktemp("minari") / "out"
    message = why_not_written(dataset, out)
    if message is None:
        assert_same(dataset, open_dataset(out))
    else:
        assert "Minari cannot hold" in message
        assert list(out.parent.iterdir()) == []


def why_not_written(dataset: EpisodeList, out: Path) -> str | None:
    try:
        write_minari(dataset, out, drop=False)
    except DatasetError as error:
        return str(error)
    return None


def test_it_is_found_by_its_id(root: Path) -> None:
    expected = dataset()
    write_minari(expected, root / "robots" / "car-v3", drop=False)
    assert minari.load_dataset("robots/car-v3").id == "car-v3"
    assert_same(expected, open_dataset("robots/car-v3"))


def test_nothing_beside_the_folder_is_touched(tmp_path: Path) -> None:
    before = dict(os.environ)
    write_minari(dataset(), tmp_path / "car", drop=False)
    open_dataset(tmp_path / "car").episode(0)
    assert os.environ == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["car"]
    with pytest.raises(DatasetError, match="found nothing of that name"):
        open_dataset(tmp_path / "nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["car"]


def test_environment_and_spaces_are_kept(tmp_path: Path) -> None:
    space = spaces.Box(-1, 1, (3,))
    about = About("native", "Pendulum-v1", space, spaces.Discrete(3, start=1))
    schema = schema_like(np.zeros(3, np.float32), np.int64(0))
    write_minari(dataset_of(schema, [4], about=about), tmp_path / "car", drop=False)
    theirs = minari.MinariDataset(tmp_path / "car" / "data")
    assert (theirs.observation_space, theirs.action_space) == (space, spaces.Discrete(3, start=1))
    assert theirs.env_spec is not None
    assert theirs.env_spec.id == "Pendulum-v1"
    found = open_dataset(tmp_path / "car").about
    assert (found.environment, found.observation_space, found.action_space) == (
        about.environment,
        about.observation_space,
        about.action_space,
    )


def test_the_name_of_an_environment_is_not_imported(tmp_path: Path) -> None:
    write_minari(dataset(environment="evil_module:Car-v0"), tmp_path / "car", drop=False)
    assert open_dataset(tmp_path / "car").about.environment == "evil_module:Car-v0"
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (schema_like(np.complex64(0)), "cannot hold obs: it has no space of complex64"),
        (schema_like({"a": np.zeros((2, 0))}), r"cannot hold obs/a: it has no arrays of shape \(2, 0\)"),
        (
            schema_like({"a/b": 1.0}),
            "cannot hold obs/a~1b: a key must not be empty, a dot or contain a slash",
        ),
        (schema_like({".": 1.0}), "a key must not be empty, a dot"),
        (schema_like({1: 1.0}), r"cannot hold obs: its keys must be text, got \(1,\)"),
        (schema_like(1.0, ()), "cannot hold act: it holds no array"),
        (schema_like({"a": {}, "b": 1.0}), "cannot hold obs/a: it holds no array"),
    ],
)
def test_what_minari_cannot_hold_at_all_is_named(schema: Any, message: str, tmp_path: Path) -> None:
    for drop in (False, True):
        with pytest.raises(DatasetError, match=message):
            write_minari(dataset_of(schema, [4]), tmp_path / "car", drop)
    assert list(tmp_path.iterdir()) == []


def test_what_can_be_dropped_is_named_and_with_drop_reported(tmp_path: Path) -> None:
    import torch

    schema = schema_like(
        torch.zeros(3, dtype=torch.bfloat16), with_crc=True, empty=np.zeros(0), kept=np.complex128(0), ok=1.0
    )
    given = dataset_of(schema, [4, 1, 5])
    with pytest.raises(DatasetError, match=r"give drop=True \(--drop\) to do without, or use npz") as caught:
        write_minari(given, tmp_path / "car", drop=False)
    assert list(tmp_path.iterdir()) == []
    remarks = write_minari(given, tmp_path / "car", drop=True)
    assert remarks == [
        "Minari cannot hold the checksums of CRC mode",
        "Minari cannot hold 1 episodes without a transition",
        "Minari cannot hold obs as bfloat16 (it becomes float32)",
        "Minari cannot hold the entry 'empty' of info",
        "Minari cannot hold the entry 'kept' of info",
    ]
    for remark in remarks:
        assert remark.removeprefix("Minari cannot hold ") in str(caught.value)
    found = open_dataset(tmp_path / "car")
    assert found.rows_per_episode.tolist() == [4, 5]
    assert list(found.schema.info) == ["ok"]
    bits = given.episode(2).rows["obs"].astype(np.uint32) << 16
    assert found.episode(1).rows["obs"].tobytes() == bits.tobytes()


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for name in ("", "thesis.tex"):
        with pytest.raises(DatasetError, match="must be a new or an empty folder; choose another one"):
            write_minari(dataset(), tmp_path / name, drop=False)
    (tmp_path / "empty").mkdir()
    write_minari(dataset(), tmp_path / "empty", drop=False)


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Damaged(EpisodeList):
        def episode(self, index: int) -> Any:
            if index == 2:
                raise DatasetError("damaged")
            return super().episode(index)

    given = Damaged(SCHEMA, About("native"), list(dataset().episodes()))
    with pytest.raises(DatasetError, match=r"^damaged$"):
        write_minari(given, tmp_path / "car", drop=False)
    assert list(tmp_path.iterdir()) == []


# Datasets that Minari made


def made_by_minari(episodes: list[EpisodeBuffer], obs: Any, act: Any, **kwargs: Any) -> Path:
    with pytest.warns(UserWarning, match=r"is set to None|env_spec is None"):  # what else it wishes to know
        made = minari.create_dataset_from_buffers(
            "test/made-v0", episodes, observation_space=obs, action_space=act, **kwargs
        )
    return Path(made.spec.data_path)


def buffer(n: int, **fields: Any) -> EpisodeBuffer:
    steps = np.arange(n)
    fields = {
        "observations": {
            "x": np.arange(n + 1.0),
            "pair": (np.arange(n + 1), np.zeros((n + 1, 2), np.float32)),
        },
        "actions": steps,
        "rewards": steps / 4,
        "terminations": steps < 0,
        "truncations": steps == n - 1,
        **fields,
    }
    return EpisodeBuffer(**fields)


OBS_SPACE = spaces.Dict(
    {"x": spaces.Box(-1, 1, ()), "pair": spaces.Tuple([spaces.Discrete(9), spaces.Box(-1, 1, (2,))])}
)
ACT_SPACE = spaces.Discrete(9)


def test_a_foreign_dataset_is_read_as_it_is() -> None:
    infos = {"ok": np.arange(4), "late": np.arange(3), "text": ["a"] * 4, "nest": {"deep": np.zeros((4, 2))}}
    path = made_by_minari([buffer(3, infos=infos), buffer(3, infos=infos)], OBS_SPACE, ACT_SPACE)
    found = open_dataset("test/made-v0")
    episode = found.episode(0)
    assert found.rows_per_episode.tolist() == [4, 4]
    assert episode.rows["obs/x"].tolist() == [0, 1, 2, 3]
    assert episode.rows["obs/x"].dtype == np.float64
    assert episode.rows["act"].tolist() == [0, 0, 1, 2]
    assert episode.rows["rew"].tolist() == [0, 0, 0.25, 0.5]
    assert episode.rows["info/late"].tolist() == [0, 0, 1, 2]
    assert episode.rows["info/ok"].tolist() == [0, 1, 2, 3]
    assert (episode.is_terminated, episode.is_truncated, episode.begins) == (False, True, True)
    assert (episode.worker, episode.source) == ("test/made-v0", "dataset")
    assert sorted(found.schema.info) == ["late", "nest", "ok"]
    assert any("the entry 'text' of info was left out" in line for line in found.about.assumptions)
    assert (found.about.observation_space, found.about.action_space) == (OBS_SPACE, ACT_SPACE)
    assert_same(found, open_dataset(path))


def test_info_that_only_some_episodes_have_is_left_out() -> None:
    made_by_minari([buffer(3, infos={"ok": np.arange(4)}), buffer(3)], OBS_SPACE, ACT_SPACE)
    found = open_dataset("test/made-v0")
    assert found.about.assumptions == ("the entry 'ok' of info was left out: not every episode has it",)
    assert len(list(found.episodes())) == 2


def test_images_come_back_as_minari_decodes_them() -> None:
    space = spaces.Box(0, 255, (40, 40, 3), np.uint8)
    frames = np.random.default_rng(0).integers(0, 255, (4, 40, 40, 3)).astype(np.uint8)
    path = made_by_minari([buffer(3, observations=frames)], space, ACT_SPACE)
    (theirs,) = minari.MinariDataset(path)
    assert open_dataset(path).episode(0).rows["obs"].tobytes() == theirs.observations.tobytes()


def test_rewards_that_are_rounded_are_said() -> None:
    path = made_by_minari([buffer(3, rewards=np.full(3, 0.1))], OBS_SPACE, ACT_SPACE)
    assert "rewards of float64 were rounded to float32" in open_dataset(path).about.assumptions


def test_episodes_that_are_not_alike_are_refused() -> None:
    other = {"x": np.arange(4), "pair": buffer(3).observations["pair"]}
    path = made_by_minari([buffer(3), buffer(3, observations=other)], OBS_SPACE, ACT_SPACE)
    with pytest.raises(DatasetError, match="obs/x must be float64 of shape"):
        open_dataset(path).episode(1)
    path = made_by_minari_again([buffer(3, terminations=np.array([True, False, False]))])
    with pytest.raises(DatasetError, match="episode 0 goes on after its end"):
        open_dataset(path).episode(0)


def made_by_minari_again(episodes: list[EpisodeBuffer]) -> Path:
    minari.delete_dataset("test/made-v0")
    return made_by_minari(episodes, OBS_SPACE, ACT_SPACE)


def test_text_is_refused() -> None:
    path = made_by_minari([buffer(3, observations=["a"] * 4)], spaces.Text(3), ACT_SPACE)
    with pytest.raises(DatasetError, match="a row cannot hold samples of Text"):
        open_dataset(path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = made_by_minari([buffer(3)], OBS_SPACE, ACT_SPACE)
    monkeypatch.setitem(sys.modules, "minari.dataset.minari_storage", None)
    for call in (lambda: open_dataset(path), lambda: write_minari(dataset(), tmp_path / "x", drop=False)):
        with pytest.raises(DatasetError, match=r'pip install "tmrl-memory\[datasets\]"'):
            call()


# Damage and malice


def change_metadata(path: Path, **changes: Any) -> None:
    metadata = json.loads((path / "metadata.json").read_text()) | changes
    kept = {key: value for key, value in metadata.items() if value is not None}
    (path / "metadata.json").write_text(json.dumps(kept))


def test_an_environment_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without spaces, Minari would make the environment that the file names."""
    path = made_by_minari([buffer(3)], OBS_SPACE, ACT_SPACE)
    monkeypatch.setattr(gymnasium, "make", lambda *_: pytest.fail("an environment was made"))
    change_metadata(path, observation_space=None, env_spec=gymnasium.spec("Pendulum-v1").to_json())
    with pytest.raises(DatasetError, match="must hold its spaces; they would have to be taken"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_format": "arrow"}, "must be in the format hdf5, found 'arrow'"),
        ({"total_episodes": None}, "must hold its number of episodes"),
        ({"total_episodes": 10**12}, "is damaged"),
        ({"observation_space": "{"}, "is damaged"),
        ({"observation_space": '{"type": "System"}'}, "is damaged"),
        ({"env_spec": "[]"}, "is damaged"),
        ({"tmrl_schema": "[]"}, "schema must hold obs, act, info and with_crc"),
    ],
)
def test_damaged_metadata_is_refused(changes: dict[str, Any], message: str) -> None:
    path = made_by_minari([buffer(3)], OBS_SPACE, ACT_SPACE)
    change_metadata(path, **changes)
    with pytest.raises(DatasetError, match=message):
        open_dataset(path)


def test_what_leads_out_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(range(24)))
    path = made_by_minari([buffer(3)], OBS_SPACE, ACT_SPACE)
    with h5py.File(path / "main_data.hdf5", "a") as file:
        del file["episode_0/actions"]
        file["episode_0"].create_dataset(
            "actions", (3,), np.int64, external=[(str(tmp_path / "secret"), 0, 24)]
        )
    with pytest.raises(DatasetError, match="'actions' must be in the file itself, but leads elsewhere"):
        open_dataset(path)
    with h5py.File(path / "main_data.hdf5", "a") as file:
        del file["episode_0/actions"]
        file["episode_0/actions"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/x")
    with pytest.raises(DatasetError, match="leads elsewhere"):
        open_dataset(path)


def test_an_absurd_size_is_refused_before_it_is_read() -> None:
    path = made_by_minari([buffer(3)], OBS_SPACE, ACT_SPACE)
    with h5py.File(path / "main_data.hdf5", "a") as file:
        del file["episode_0/actions"]
        file["episode_0"].create_dataset("actions", (1 << 40,), np.int64, chunks=(1 << 10,))
    with pytest.raises(DatasetError, match=r"episode 0 claims 8,796,.* bytes, 100 times as many as the file"):
        open_dataset(path)


def test_damaged_data_are_refused_or_harmless(tmp_path: Path) -> None:
    """HDF5 as Minari writes it has no checksums, so a flipped value is read; it is never another layout."""
    expected = dataset()
    write_minari(expected, tmp_path / "car", drop=False)
    file = tmp_path / "car" / "data" / "main_data.hdf5"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for case in range(60):
        damaged = bytearray(whole)
        if case % 4 == 0:
            del damaged[rng.integers(len(damaged)) :]
        else:
            damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        message = why_refused(tmp_path / "car")
        assert message is None or str(tmp_path / "car") in message


def why_refused(path: Path) -> str | None:
    try:
        for episode in open_dataset(path).episodes():
            assert episode.rows.dtype == SCHEMA.row_dtype
    except DatasetError as error:
        return str(error)
    return None


def test_importer_loads_nothing_until_it_is_needed() -> None:
    assert not any(hasattr(importer, name) for name in ("h5py", "gymnasium"))


def test_first_rows_survive_although_minari_has_no_place_for_them(tmp_path: Path) -> None:
    """A real-time environment has a default action at reset."""
    rows = random_rows(SCHEMA, 4, np.random.default_rng(0))
    given = EpisodeList(SCHEMA, About("native"), [episode_of(rows)])
    write_minari(given, tmp_path / "car", drop=False)
    assert open_dataset(tmp_path / "car").episode(0).rows["act"][0].tobytes() == rows["act"][0].tobytes()
