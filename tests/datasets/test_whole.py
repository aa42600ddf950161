"""Datasets of compressed observations, made whole: what the actor saw, bit by bit."""

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histories import HistoryWorker, Shape, Stream, shapes
from recordings import assert_same, dataset_of, schema_like
from tmrl.chunk import chunks_of
from tmrl.datasets import About, Dataset, Episode, EpisodeList, export, open_dataset
from tmrl.datasets.samples import episodes_of, schema_of
from tmrl.datasets.whole import whole
from tmrl.errors import DatasetError
from tmrl.memory import ActionBuffer, History, Latest, ReplayMemory, Stacked
from tmrl.packing import Packer

STACK = History(Stacked(3))


def recorded(samples: list[Any], history: History | None = None) -> EpisodeList:
    schema = schema_of(samples, (), history)
    return EpisodeList(schema, About("native", "Car-v0"), episodes_of(chunks_of(samples, Packer(schema))))


def seen_and_sent(shape: Shape, lengths: list[int]) -> tuple[EpisodeList, EpisodeList]:
    """Episodes as the actor saw them, and as a worker with the history sends them."""
    worker = HistoryWorker("ann", Stream(shape, 0))
    samples: list[Any] = []
    for length in lengths:
        samples += [worker.produce("") for _ in range(length)] + [worker.produce("terminated")]
    sent = [sample.compressed for sample in samples]
    if shape.n_actions:  # a row needs the action that fills the buffer, where the reset has none
        samples = [
            type(one)((other[0], *one[1:]), one.stamp) for one, other in zip(samples, sent, strict=True)
        ]
    return recorded(samples), recorded(sent, shape.history)


def from_row(dataset: Dataset, first: int) -> EpisodeList:
    """The same without the first rows of each episode, as an eviction leaves them."""
    episodes = [Episode(e.rows[first:], e.worker, e.source, False) for e in dataset.episodes()]
    return EpisodeList(dataset.schema, dataset.about, [e for e in episodes if len(e.rows)])


@given(shape=shapes, lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_whole_observations_are_those_that_the_actor_saw(shape: Shape, lengths: list[int]) -> None:
    seen, sent = seen_and_sent(shape, lengths)
    found, remarks = whole(sent, drop=False)
    assert_same(seen, found)
    assert found.schema.history is None
    assert remarks == []


@given(shape=shapes, cut=st.integers(1, 4))
def test_after_a_gap_only_what_can_be_known_is_made_whole(shape: Shape, cut: int) -> None:
    seen, sent = seen_and_sent(shape, [2, 7, 4])
    behind = shape.history.behind
    if not behind:
        assert_same(from_row(seen, cut), whole(from_row(sent, cut), drop=False)[0])
        return
    with pytest.raises(DatasetError, match=r"samples after a gap, .* give drop=True"):
        whole(from_row(sent, cut), drop=False)
    found, remarks = whole(from_row(sent, cut), drop=True)
    assert_same(from_row(seen, cut + behind), found)
    assert len(remarks) == 1


def test_labels_move_with_the_rows_that_are_left() -> None:
    schema = schema_like(np.zeros(2, np.uint8))
    schema = type(schema)(schema.obs, schema.act, history=STACK)
    rows = dataset_of(schema, [9]).episode(0).rows
    for changes, expected in (
        (((1, "a"), (5, "b")), ("a", ((3, "b"),))),
        (((2, "a"),), ("a", ())),
        (((3, "a"),), ("demo", ((1, "a"),))),
    ):
        episode = Episode(rows, "ann", "demo", False, changes)
        found = whole(EpisodeList(schema, About("native"), [episode]), drop=True)[0].episode(0)
        assert (found.source, found.changes, found.begins, len(found.rows)) == (*expected, False, 7)


def test_a_dataset_without_a_history_stays_what_it_is() -> None:
    dataset = dataset_of(schema_like(np.zeros(2)), [4])
    assert whole(dataset, drop=False) == (dataset, [])


def car() -> tuple[EpisodeList, EpisodeList]:
    """A speed, a stack of scans and two actions."""
    rng = np.random.default_rng(0)
    seen: list[Any] = []
    sent: list[Any] = []
    scans, acts = [rng.random(5)] * 3, [np.zeros(2)] * 2
    for step in range(7):
        if step:
            scans, acts = [*scans[1:], rng.random(5)], [acts[1], rng.random(2)]
        speed, rest = np.array([step], np.float32), (float(step), step == 6, False, {})
        seen.append((acts[1] if step else None, (speed, np.stack(scans), *acts), *rest))
        sent.append((acts[1] if step else None, (speed, scans[-1]), *rest))
    return recorded(seen), recorded(sent, History((Latest(), Stacked(3), ActionBuffer(2))))


def test_exports_to_formats_of_others_hold_whole_observations(tmp_path: Path) -> None:
    seen, sent = car()
    report = export(sent, tmp_path / "car.npz", to="npz")
    assert report.assumed[-1].startswith("observations were made whole, by History(spec=(Latest(), Stacked(")
    assert (report.episodes, report.transitions, report.dropped) == (1, 6, ())
    assert_same(seen, open_dataset(tmp_path / "car.npz"))
    with np.load(tmp_path / "car.npz") as columns:
        assert columns["obs/1"].shape == (7, 3, 5)
        assert columns["obs/3"].shape == (7, 2)
    export(sent, tmp_path / "car", to="minari")
    assert_same(seen, open_dataset(tmp_path / "car"))
    (episode,) = minari.MinariDataset(tmp_path / "car" / "data")
    assert episode.observations[1].tobytes() == seen.episode(0).rows["obs/1"].tobytes()


def test_an_export_to_our_own_format_stays_compressed(tmp_path: Path) -> None:
    _, sent = car()
    assert export(sent, tmp_path / "car").assumed == ()
    assert open_dataset(tmp_path / "car").schema == sent.schema


def test_an_export_after_a_gap_names_the_remedy_and_reports_what_it_left_out(tmp_path: Path) -> None:
    _, sent = car()
    cut = from_row(sent, 2)
    with pytest.raises(DatasetError, match=r"2 samples after a gap, .*; give drop=True \(--drop\)"):
        export(cut, tmp_path / "car.npz", to="npz")
    assert list(tmp_path.iterdir()) == []
    report = export(cut, tmp_path / "car.npz", to="npz", drop=True)
    assert (report.episodes, report.transitions) == (1, 2)
    assert report.dropped == ("2 samples after a gap, whose observations need samples that are not there",)


def test_a_memory_without_the_history_takes_what_was_exported(tmp_path: Path) -> None:
    seen, sent = car()
    export(sent, tmp_path / "sent")
    with pytest.raises(DatasetError, match="or export it to npz, which makes its observations whole"):
        ReplayMemory(dataset_path=tmp_path / "sent")
    export(tmp_path / "sent", tmp_path / "car.npz", to="npz")
    memory = ReplayMemory(dataset_path=tmp_path / "car.npz")
    assert memory.take([5]).new_obs[1][0].numpy().tobytes() == seen.episode(0).rows["obs/1"][6].tobytes()
