"""What the files of a memory say beside their rows."""

from pathlib import Path

import numpy as np
import pytest

from makers import buffer_of, plain_episode, stamped
from tmrl.datasets.files import read_manifest, replace_manifest
from tmrl.datasets.opening import open_dataset
from tmrl.errors import DatasetError
from tmrl.inspection.facts import read_facts
from tmrl.memory import ReplayMemory


def saved(folder: Path, within: dict[str, object] | None = None) -> Path:
    """A memory whose oldest 5 rows are gone; bob sent his last row before ann's last six."""
    memory = ReplayMemory(memory_size=20, batch_size=4)
    for i, worker in enumerate(("ann", "ann", "bob", "ann")):
        samples = stamped(plain_episode(5), worker, first_step=0 if worker == "bob" else 6 * i, episode=i)
        memory.append(buffer_of(samples))
    memory.save(folder, within=within)
    return folder


def test_a_memory_says_its_counts_and_ids(tmp_path: Path) -> None:
    folder = saved(tmp_path / "mine")
    facts = read_facts(folder, open_dataset(folder))
    assert (facts.name, facts.capacity, facts.row_ids) == ("mine", 20, range(3, 24))
    assert facts.newest == {"ann": 23, "bob": 17}
    total = facts.tally.total()
    assert (total.appended, total.evicted, total.gaps) == (24, 3, 6)
    assert facts.disk_bytes == sum(file.stat().st_size for file in (tmp_path / "mine").iterdir())
    assert facts.changed_at is not None
    assert facts.changed_at.year >= 2024
    assert facts.arrivals()[1].sum() == 21
    assert 0 <= facts.age_s(5) < 60
    assert np.isnan(read_facts(tmp_path).age_s(5))


def test_a_memory_within_a_checkpoint_is_found(tmp_path: Path) -> None:
    assert read_facts(saved(tmp_path, within={"rounds": 7})).capacity == 20


def test_ages_come_from_the_times_of_arrival(tmp_path: Path) -> None:
    body, _ = read_manifest(saved(tmp_path))
    body["state"]["store"]["times"] = [[0, 50.0], [2, 100.0], [6, 160.0], [20, 220.0]]
    replace_manifest(tmp_path, body)
    facts = read_facts(tmp_path, open_dataset(tmp_path))
    ages_s, n_rows = facts.arrivals()
    # The rows 3 to 5 arrived at 100, 6 to 19 at 160, and 20 to 23 at 220 seconds.
    assert (ages_s.tolist(), n_rows.tolist()) == ([120.0, 60.0, 0.0], [3, 14, 4])
    assert [facts.age_s(row_id) for row_id in (3, 5, 6, 23)] == [120.0, 120.0, 60.0, 0.0]


def test_a_file_of_another_format_says_its_size(tmp_path: Path) -> None:
    file = tmp_path / "recorded.npz"
    file.write_bytes(b"12345")
    facts = read_facts(file)
    assert (facts.name, facts.disk_bytes, facts.capacity, facts.row_ids) == ("recorded.npz", 5, None, None)


def test_an_id_says_nothing_of_files(tmp_path: Path) -> None:
    facts = read_facts(Path("D4RL/door/human-v2"))
    assert (facts.name, facts.disk_bytes, facts.changed_at) == ("D4RL/door/human-v2", 0, None)


def test_a_damaged_manifest_is_told(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DatasetError, match=r"manifest.json is damaged"):
        read_facts(tmp_path)


@pytest.mark.parametrize(
    "body",
    [{"memory": 3}, {"state": {"tally": 7}}, {"state": {"store": {"streams": [1]}}}],
)
def test_a_manifest_that_save_did_not_write_is_told(tmp_path: Path, body: dict[str, object]) -> None:
    replace_manifest(tmp_path, body)
    with pytest.raises(DatasetError, match=r"manifest.json must be what save writes, but: "):
        read_facts(tmp_path)
