"""Damage is told to the row; the default of a dataset tells what its episodes say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from makers import buffer_of, plain_episode
from recorded import Listed, episode_of, schema_of
from tmrl.datasets.damage import bad_rows, damage_of_segments
from tmrl.datasets.dataset import Episode
from tmrl.datasets.files import read_manifest, row_checks
from tmrl.datasets.segments import LINK
from tmrl.errors import DatasetError
from tmrl.memory import ReplayMemory
from tmrl.schema_json import schema_from_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A memory of 60 rows, four of them a segment."""
    memory = ReplayMemory(memory_size=127, batch_size=4)
    for first in range(0, 60, 6):
        memory.append(buffer_of(plain_episode(5, first)))
    memory.save(tmp_path)
    return tmp_path


def files(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"*.{kind}.npy"))


def flip(file: Path, place: int) -> None:
    octets = bytearray(file.read_bytes())
    octets[place] ^= 1
    file.write_bytes(octets)


def damage(folder: Path) -> list[str]:
    body, _ = read_manifest(folder)
    row_dtype = schema_from_json(body["schema"]).row_dtype
    return list(damage_of_segments(folder, body["segments"], row_dtype, LINK))


def test_a_sound_memory_has_no_damage(folder: Path) -> None:
    assert len(files(folder, "rows")) == 15
    assert damage(folder) == []


def test_the_first_bad_row_is_named(folder: Path) -> None:
    file = files(folder, "rows")[2]
    flip(file, file.stat().st_size - 1)
    assert damage(folder) == [f"{file} is damaged: row 11 is bad"]
    flip(file, file.stat().st_size - 40)
    assert damage(folder) == [f"{file} is damaged: row 9 is the first of 2 bad rows"]


def test_a_file_that_was_cut_has_bad_rows_from_there_on(folder: Path) -> None:
    file = files(folder, "rows")[14]
    file.write_bytes(file.read_bytes()[:-1])
    assert damage(folder) == [f"{file} is damaged: row 59 is bad"]
    file.write_bytes(b"")
    assert damage(folder) == [f"{file} is damaged: row 56 is the first of 4 bad rows"]


def test_a_bad_header_is_told_from_bad_rows(folder: Path) -> None:
    file = files(folder, "rows")[0]
    flip(file, 1)
    (told,) = damage(folder)
    assert "its checksum differs, but every row is intact: the damage is in the file's header" in told
    flip(file, 1)
    with file.open("ab") as stream:
        stream.write(b"more")
    assert "or after its rows" in damage(folder)[0]


def test_every_damaged_file_is_told_in_order(folder: Path) -> None:
    rows, links = files(folder, "rows"), files(folder, "links")
    rows[3].unlink()
    flip(links[5], links[5].stat().st_size - 1)
    flip(rows[5], rows[5].stat().st_size - 1)
    told = damage(folder)
    assert [
        name in each for name, each in zip((rows[3].name, links[5].name, rows[5].name), told, strict=True)
    ]
    assert "is missing" in told[0]
    # Without the checksums of rows, only the file can be named.
    assert told[2] == f"{rows[5]} is damaged: its checksum differs"


def test_rows_that_are_missing_are_bad_rows() -> None:
    rows = np.zeros(7, [("a", np.int64), ("b", np.uint8)])
    rows["a"] = range(7)
    checks = row_checks(rows)
    assert bad_rows(rows, checks).tolist() == []
    rows["b"][[2, 4]] = 1
    assert bad_rows(rows, checks).tolist() == [2, 4]
    assert bad_rows(rows[:3], checks).tolist() == [2, 3, 4, 5, 6]


class Torn(Listed):
    """Every third episode cannot be read; two of them share a file."""

    def episode(self, index: int) -> Episode:
        if index % 3 == 0:
            raise DatasetError(f"file {index // 4} is damaged")
        return super().episode(index)


def test_a_dataset_tells_each_message_once_and_goes_on() -> None:
    schema: Any = schema_of(np.zeros(1))
    episodes = [episode_of(schema, 2, np.random.default_rng(0)) for _ in range(10)]
    assert list(Torn(schema, episodes).damage()) == [
        "file 0 is damaged",
        "file 1 is damaged",
        "file 2 is damaged",
    ]
    assert list(Listed(schema, episodes).damage()) == []
