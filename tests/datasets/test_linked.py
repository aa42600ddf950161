"""Rows of interleaved streams are sorted into the episodes that a naive walk along the links finds."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from makers import buffer_of, plain_episode, stamped, with_crc
from recordings import assert_same_rows, random_rows, schema_like
from tmrl.datasets import About, files, open_dataset
from tmrl.datasets.linked import LinkedRows, chains
from tmrl.errors import DatasetError
from tmrl.memory import ReplayMemory
from tmrl.transition import Sample, Stamp


def naive_chains(back: list[int]) -> list[list[int]]:
    """Each row goes to the episode of the row before it, if that is there."""
    episodes: list[list[int]] = []
    of_row: dict[int, list[int]] = {}
    for row, distance in enumerate(back):
        previous = row - distance
        if distance <= 0 or previous < 0:
            of_row[row] = []
            episodes.append(of_row[row])
        else:
            of_row[row] = of_row[previous]
        of_row[row].append(row)
    return episodes


@st.composite
def links(draw: st.DrawFn) -> list[int]:
    """Links of up to four streams, of which the oldest rows may be gone."""
    newest: dict[int, int] = {}
    back: list[int] = []
    for row in range(draw(st.integers(0, 60))):
        stream = draw(st.integers(0, 3))
        kind = draw(st.sampled_from(["next", "next", "next", "start", "gap"]))
        distance = row - newest.get(stream, -1 - stream)
        back.append({"next": distance, "start": 0, "gap": -1}[kind])
        newest[stream] = row
    return back


@settings(max_examples=300, deadline=None)
@given(links())
def test_chains_are_those_of_a_naive_walk(back: list[int]) -> None:
    places, bounds = chains(np.array(back, np.int32))
    found = [places[start:stop].tolist() for start, stop in pairwise(bounds)]
    assert found == naive_chains(back)


def test_rows_that_follow_the_same_row_are_refused() -> None:
    with pytest.raises(DatasetError, match="two of them follow the same one"):
        chains(np.array([0, 1, 2], np.int32))


def test_an_unknown_origin_is_refused() -> None:
    back, origin = np.zeros(2, np.int32), np.array([0, 1], np.int32)
    with pytest.raises(DatasetError, match="an origin is not known"):
        LinkedRows(
            schema_like(1.0), About("x"), back, origin, [("ann", "demo")], lambda _: pytest.fail("taken")
        )


def interleaved(memory: ReplayMemory, n: int, sources: Any = lambda i: "online") -> None:
    """Three workers in turn, in episodes of 7 samples."""
    for i in range(n):
        step, worker = divmod(i, 3)
        episode, episode_step = divmod(step, 7)
        obs = np.array([i], np.float32)
        values = (None if episode_step == 0 else -obs, obs, float(i), episode_step == 6, False, {})
        stamp = Stamp(f"w{worker}", 1, step, episode, episode_step, sources(i))
        memory.append(buffer_of([Sample(values, stamp)]))


@pytest.mark.parametrize("n", [0, 5, 40, 41, 100, 333])
@pytest.mark.parametrize("within", [None, {"kind": "checkpoint"}])
def test_a_saved_memory_is_a_dataset_of_its_transitions(n: int, within: Any, tmp_path: Path) -> None:
    memory = ReplayMemory(memory_size=40, batch_size=4)
    interleaved(memory, n)
    memory.save(tmp_path, within=within)
    dataset = open_dataset(tmp_path)
    found = set()
    for episode in dataset.episodes():
        obs, act, rew = (episode.rows[name].ravel().tolist() for name in ("obs", "act", "rew"))
        found |= set(zip(obs[:-1], act[1:], rew[1:], obs[1:], strict=True))
        assert {int(number) % 3 for number in obs} == {int(episode.worker[1:])}
        assert episode.begins == (obs[0] // 3 % 7 == 0)
    expected = {(t[0][0], t[1][0], t[2], t[3][0]) for t in map(memory.get_transition, range(len(memory)))}
    assert found == expected
    assert dataset.n_rows == memory.stats().rows
    assert dataset.about.kind == "snapshot"


def test_labels_that_change_within_an_episode_are_kept(tmp_path: Path) -> None:
    memory = ReplayMemory(memory_size=100, batch_size=4)
    interleaved(memory, 21, lambda i: "intervention" if 6 <= i < 12 else "online")
    memory.save(tmp_path)
    for episode in open_dataset(tmp_path).episodes():
        assert (episode.source, episode.changes) == ("online", ((2, "intervention"), (4, "online")))
        assert list(episode.parts()) == [(0, 2, "online"), (2, 4, "intervention"), (4, 7, "online")]


def test_checksums_and_info_of_a_saved_memory_are_read(tmp_path: Path) -> None:
    samples = with_crc(stamped(plain_episode(6)))
    for sample in samples:
        sample[5]["success"] = True
    memory = ReplayMemory(crc_debug=True, info_keys=("success",), batch_size=4)
    memory.append(buffer_of(samples))
    memory.save(tmp_path)
    again = ReplayMemory(crc_debug=True, info_keys=("success",), batch_size=64, dataset_path=tmp_path)
    assert again.sample().info["success"].all()
    assert again.stats().crc_checked == 64


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    memory = ReplayMemory(memory_size=40, batch_size=4)
    interleaved(memory, 20)
    memory.save(tmp_path)
    body, _ = files.read_manifest(tmp_path)
    for changes in ({"state": {}}, {"state": None}, {"segments": [{}]}, {"schema": 3}):
        files.replace_manifest(tmp_path, body | changes)
        with pytest.raises(DatasetError, match=r"must be what save writes|a schema must hold"):
            open_dataset(tmp_path)
    files.replace_manifest(tmp_path, {"memory": 3})
    with pytest.raises(DatasetError, match="the memory of a manifest must be a JSON object, got 3"):
        open_dataset(tmp_path)


def test_rows_are_taken_from_wherever_they_are() -> None:
    """A memory in a mapped file wraps around; all it has to say is how to copy rows by their place."""
    schema = schema_like(np.zeros(2))
    ring = random_rows(schema, 10, np.random.default_rng(0))
    oldest, back = 7, np.array([0, 0, 2, 2, 2, 2], np.int32)
    dataset = LinkedRows(
        schema,
        About("memory"),
        back,
        np.zeros(6, np.int32),
        [("ann", "demo")],
        lambda places: ring[(oldest + places) % 10],
    )
    assert dataset.rows_per_episode.tolist() == [3, 3]
    assert_same_rows(ring[[7, 9, 1]], dataset.episode(0).rows, schema)
    assert_same_rows(ring[[8, 0, 2]], dataset.episode(-1).rows, schema)
