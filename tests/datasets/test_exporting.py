"""From any format to any other and back, and what cannot be opened or written."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordings import assert_same, dataset_of, schema_like
from tmrl.datasets import About, Report, export, open_dataset
from tmrl.errors import DatasetError

SCHEMA = schema_like({"camera": np.zeros((4, 4), np.uint8), "arms": [0.5, 1]}, np.zeros(2), success=True)
NAMES: dict[Any, str] = {"native": "folder", "npz": "file.npz", "minari": "folder"}


@pytest.mark.parametrize(("first", "second"), list(product(NAMES, NAMES)))
def test_round_trips_are_lossless(first: Any, second: Any, tmp_path: Path) -> None:
    dataset = dataset_of(SCHEMA, [5, 6, 7, 2], about=About("native", "Car-v0"))
    export(dataset, tmp_path / "a" / NAMES[first], to=first)
    export(tmp_path / "a" / NAMES[first], tmp_path / "b" / NAMES[second], to=second)
    report = export(tmp_path / "b" / NAMES[second], tmp_path / "c")
    assert_same(dataset, open_dataset(tmp_path / "c"))
    assert open_dataset(tmp_path / "c").about.environment == "Car-v0"
    assert report == Report(tmp_path / "c", 4, 16, (), ())


def test_a_relative_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = dataset_of(SCHEMA, [5, 6])
    for to, name in NAMES.items():
        export(dataset, f"{to}-{name}", to=to)
        assert_same(dataset, open_dataset(f"{to}-{name}"))


def test_the_report_says_what_was_assumed_and_dropped(tmp_path: Path) -> None:
    columns = {"obs": np.zeros(4), "act": np.zeros(4), "rew": np.zeros(4), "terminated": np.zeros(4)}
    np.savez(tmp_path / "data.npz", **columns, episode=np.array([0, 0, 0, 1]))
    report = export(tmp_path / "data.npz", tmp_path / "out", to="minari", drop=True)
    assert report.dropped == ("Minari cannot hold 1 episodes without a transition",)
    assert len(report.assumed) == 2


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="to must be one of native, minari, npz, got 'csv'"):
        export(dataset_of(SCHEMA, [3]), tmp_path / "x", to="csv")  # pyright: ignore[reportArgumentType]


def test_what_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    for to, name in NAMES.items():
        out = tmp_path / to / name
        export(dataset_of(SCHEMA, [3]), out, to=to)
        with pytest.raises(
            DatasetError, match=r"already; choose another|must be a new|must be the name of a new"
        ):
            export(out, out, to=to)
        assert len(open_dataset(out)) == 1


def test_what_cannot_be_opened_is_said_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "thesis.tex").write_text("years of work")
    for path, found in (
        (tmp_path / "nothing", "found nothing of that name"),
        ("no-such-data-v7", "found nothing of that name"),
        (tmp_path / "empty", "found an empty folder"),
        (tmp_path, "found a folder with empty, thesis.tex"),
        (tmp_path / "thesis.tex", "found a file of 13 bytes"),
    ):
        with pytest.raises(
            DatasetError, match=rf"must be a folder of this package, a memory that was saved.*{found}"
        ):
            open_dataset(path)


@pytest.fixture(autouse=True)
def root(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("root")))
