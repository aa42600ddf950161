"""Kept sources in a folder: each ring goes on where it was, whatever ended the process."""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from damage import damage
from makers import buffer_of, plain_episode, stamped
from nests import is_identical
from tmrl.datasets import export, files, open_dataset
from tmrl.datasets.row_file import RowFile, info_in
from tmrl.datasets.stored_ring import LINK, StoredRing
from tmrl.errors import DatasetError
from tmrl.inspection.facts import read_facts
from tmrl.inspection.verdict import verify
from tmrl.memory import Mixture, Prioritized, ReplayMemory, storage
from tmrl.schema_json import schema_from_json
from tmrl.transition import Sample, Stamp
from twins import assert_goes_on_alike, assert_reopens_as_it_was, contents

SIZE, KEPT = 50, 20


def mixture(keep: int = KEPT) -> Mixture:
    shares = {"online": 0.5, "demo": 0.5}
    return Mixture(shares, {"demo": Prioritized()}, empty="others", keep={"demo": keep})


def memory_of(folder: Path | None = None, keep: int = KEPT, **kwargs: Any) -> ReplayMemory:
    given = {"memory_size": SIZE, "batch_size": 8, "seed": 0, "sampler": mixture(keep)}
    return ReplayMemory(**{**given, "storage_path": folder, **kwargs})


def sample(i: int) -> Sample:
    """Three workers in turns, episodes of seven; one demonstrates, and another does for whole episodes."""
    step, worker = divmod(i, 3)
    episode, episode_step = divmod(step, 7)
    source = "demo" if worker == 0 or (worker == 1 and episode % 3 == 1) else "online"
    obs = np.array([i], np.float32)
    values = (None if episode_step == 0 else -obs, obs, float(i), episode_step == 6, False, {})
    return Sample(values, Stamp(f"w{worker}", 1, step, episode, episode_step, source))


def append(memory: ReplayMemory, start: int, stop: int) -> None:
    for i in range(start, stop):
        memory.append(buffer_of([sample(i)]))


def rewards(memory: ReplayMemory) -> list[int]:
    return [int(transition[2]) for transition in contents(memory)]


def filled_folder(folder: Path) -> tuple[list[Any], StoredRing, int]:
    """What a memory of 300 samples held, now closed, the ring of its demonstrations, and their newest row."""
    with memory_of(folder) as memory:
        append(memory, 0, 300)
        held = contents(memory)
    ring = ring_of(folder)
    return held, ring, int(ring.links["id"].max())


def ring_of(folder: Path, source: str = "demo") -> StoredRing:
    """The files of a ring, to be tampered with."""
    document, _ = files.read_manifest(folder)
    info = info_in(document)
    assert info is not None
    return RowFile(folder, info, schema_from_json(document["schema"]).row_dtype, "r+").rings[source]


@pytest.mark.parametrize("n", [0, 1, 6, 30, 120, 400])
def test_each_ring_goes_on_as_in_a_memory_in_ram_that_never_stopped(n: int, tmp_path: Path) -> None:
    assert_reopens_as_it_was(partial(memory_of, tmp_path), memory_of(), append, n)
    assert len(list(tmp_path.glob("*.rows.npy"))) == 1


@pytest.mark.parametrize("n", [1, 30, 120, 400])
def test_rows_and_counts_outlive_a_kill(n: int, tmp_path: Path) -> None:
    twin, memory = memory_of(), memory_of(tmp_path)
    for each in (twin, memory):
        append(each, 0, n)
    memory._state.abandon()
    with memory_of(tmp_path) as memory:
        for each in (twin, memory):
            append(each, n - min(n, 9), n + 10)  # some are sent again, and those of every worker are known
        assert is_identical(contents(memory), contents(twin))
        assert memory.stats().workers == twin.stats().workers
        assert memory.stats().damaged == 0


@pytest.mark.parametrize(("source", "other"), [("online", "demo"), ("demo", "online")])
def test_samples_without_a_stamp_are_not_joined_over_those_of_another_ring(
    source: str, other: str, tmp_path: Path
) -> None:
    """B02: after a kill only their numbers say which of them came last."""
    memories = memory_of(), memory_of(tmp_path)
    for memory in memories:
        memory.append(buffer_of(plain_episode(4)[:-1]), source=source)
        memory.append(buffer_of(plain_episode(4, 100)[:-1]), source=other, continues=True)
    memories[1]._state.abandon()
    with memory_of(tmp_path) as reopened:
        for memory in (memories[0], reopened):
            memory.append(buffer_of(plain_episode(4, 200)[1:]), source=source, continues=True)
        assert rewards(reopened) == rewards(memories[0])
        assert sorted(rewards(reopened)) == [1, 2, 3, 101, 102, 103, 202, 203, 204]


@pytest.mark.parametrize("source", ["online", "demo"])
def test_one_ring_may_turn_round_and_round_while_another_stands(source: str, tmp_path: Path) -> None:
    """What was counted of rows that it evicted again is in no row."""
    memories = memory_of(), memory_of(tmp_path)
    for memory in memories:
        for i in range(40):
            label = source if i > 19 else "demo" if source == "online" else "online"
            memory.append(buffer_of(stamped(plain_episode(6, 10 * i), label, 7 * i, i)), source=label)
    memories[1]._state.abandon()
    with memory_of(tmp_path) as reopened:
        assert rewards(reopened) == rewards(memories[0])
        assert reopened.stats().workers == memories[0].stats().workers


def test_a_stream_whose_newest_rows_were_evicted_from_one_ring_is_not_taken_in_again(tmp_path: Path) -> None:
    """Its older rows in another ring do not say where it stands."""
    episode = [
        Sample(each, each.stamp._replace(source="demo" if i > 3 else "online"))
        for i, each in enumerate(stamped(plain_episode(6)))
    ]
    with memory_of(tmp_path, keep=4) as memory:
        memory.append(buffer_of(episode))
        memory.append(buffer_of(stamped(plain_episode(9, 100), "bob")), source="demo")
    with memory_of(tmp_path, keep=4) as memory:
        memory.append(buffer_of(episode))
        assert memory.stats().duplicates == 7
        assert rewards(memory) == [1, 2, 3, 106, 107, 108, 109]


@pytest.mark.parametrize("keep", [1, 2, 7, KEPT])
@pytest.mark.parametrize("passes", [1, 2, 5])
def test_a_chunk_that_is_longer_than_its_ring_never_empties_it(
    passes: int, keep: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_of(tmp_path, keep)
    memory.append(buffer_of(stamped(plain_episode(keep), "ann")), source="demo")
    commit, calls = StoredRing.commit, iter(range(passes))

    def dying(*arguments: Any) -> None:
        if next(calls) == passes - 1:
            raise KeyboardInterrupt
        commit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StoredRing, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            memory.append(buffer_of(stamped(plain_episode(200, 100), "bob")), source="demo")
    memory._state.abandon()
    with memory_of(tmp_path, keep) as memory:
        assert memory.stats().damaged == 0
        assert memory.stats().rows >= (keep + 1) / 2
        memory.append(buffer_of(stamped(plain_episode(200, 100), "bob")), source="demo")
        assert rewards(memory) == list(range(301 - keep, 301))


def test_an_append_that_commits_while_priorities_are_written_removes_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> ReplayMemory:
        samplers = {"online": Prioritized(), "demo": Prioritized()}
        return memory_of(tmp_path, sampler=Mixture(dict.fromkeys(samplers, 1), samplers, keep={"demo": KEPT}))

    memory = made()
    append(memory, 0, 100)
    memory.flush()
    write = storage.write_priorities

    def writing(*arguments: Any) -> dict[str, Any]:
        written = write(*arguments)
        append(memory, memory.stats().appended, memory.stats().appended + 100)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_priorities", writing)
        batch = memory.sample()
        memory.update_priorities(batch.ids, np.full(8, 99.0))
        memory.flush()
    memory._state.abandon()
    with made() as memory:
        assert len(list(tmp_path.glob("*.priorities.npy"))) == 2


class TestSizes:
    @pytest.mark.parametrize(("size", "keep"), [(50, 5), (50, 30), (40, 20), (90, 60), (3, 1)])
    def test_other_sizes_keep_the_newest_of_each(self, size: int, keep: int, tmp_path: Path) -> None:
        saved = memory_of()
        append(saved, 0, 300)
        saved.save(tmp_path / "saved")
        with memory_of(tmp_path / "memory") as memory:
            append(memory, 0, 300)
        twin = ReplayMemory.load(tmp_path / "saved", memory_size=size, sampler=mixture(keep))
        with memory_of(tmp_path / "memory", keep, memory_size=size) as memory:
            assert memory.memory_size == size
            append(memory, 300, 350)
            append(twin, 300, 350)
            assert is_identical(contents(memory), contents(twin))
            assert memory.stats().sources == twin.stats().sources
            assert len(list((tmp_path / "memory").glob("*.rows.npy"))) == 1

    def test_a_size_may_change_while_it_is_open(self, tmp_path: Path) -> None:
        twin = memory_of()
        with memory_of(tmp_path) as memory:
            for each in (twin, memory):
                append(each, 0, 200)
                each.memory_size = 30
                append(each, 200, 220)
                each.memory_size = 70
                append(each, 220, 400)
            assert_goes_on_alike(twin, memory)

    def test_bytes_stand_for_all_columns_of_all_rings(self, tmp_path: Path) -> None:
        with memory_of(tmp_path, memory_size="10kB") as memory:
            append(memory, 0, 500)
            assert 9_000 < memory.stats().bytes_full <= 10_000
            assert sum(counts.rows for counts in memory.stats().sources.values()) == memory.stats().rows

    @pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
    def test_other_sources_are_refused(self, before: bool, after: bool, tmp_path: Path) -> None:
        def made(is_kept: bool) -> ReplayMemory:
            return memory_of(tmp_path, **({} if is_kept else {"sampler": None}))

        with made(before) as memory:
            append(memory, 0, 100)
            expected = contents(memory)
        with pytest.raises(
            DatasetError, match=r"must keep the sources that the saved one kept.*append_dataset"
        ):
            made(after)
        with made(before) as memory:
            assert is_identical(contents(memory), expected)


class TestLookingAtIt:
    def test_every_row_is_seen_from_outside(self, tmp_path: Path) -> None:
        with memory_of(tmp_path / "memory") as memory:
            append(memory, 0, 300)
            expected = sorted(rewards(memory))
            copy = ReplayMemory.load(tmp_path / "memory", sampler=mixture())
            assert is_identical(contents(copy), contents(memory))
            dataset = open_dataset(tmp_path / "memory")
            assert dataset.n_rows == memory.stats().rows
            found = [row for episode in dataset.episodes() for row in episode.rows["rew"][1:].astype(int)]
            assert sorted(found) == expected
            assert verify(dataset).is_sound
        facts = read_facts(tmp_path / "memory", open_dataset(tmp_path / "memory"))
        assert (facts.capacity, facts.row_ids) == (SIZE, None)
        export(tmp_path / "memory", tmp_path / "copy")
        again = ReplayMemory(dataset_path=tmp_path / "copy")
        assert sorted(rewards(again)) == expected

    def test_what_was_saved_can_move_into_a_folder(self, tmp_path: Path) -> None:
        memory = memory_of()
        append(memory, 0, 200)
        memory.save(tmp_path / "saved")
        stored = ReplayMemory.load(tmp_path / "saved", storage_path=tmp_path / "stored", sampler=mixture())
        assert_goes_on_alike(memory, stored)
        stored.close()
        with memory_of(tmp_path / "stored") as stored:
            append(stored, 190, 220)  # the streams stand where they stood: ten duplicates
            append(memory, 190, 220)
            assert_goes_on_alike(memory, stored)


class TestDamage:
    def test_it_is_told_and_left_out_and_other_rings_are_as_they_were(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        held, ring, newest = filled_folder(tmp_path)
        good = [int(transition[2]) for transition in held]
        ring.rows["obs"][(newest - 5) % (KEPT + 1)] += 1
        (told,) = open_dataset(tmp_path).damage()
        assert f"is damaged: row {newest - 5} of source demo is bad" in told
        with caplog.at_level(logging.WARNING), memory_of(tmp_path) as memory:
            message = f"{tmp_path}, source demo: 1 rows are damaged, the first is row {newest - 5}; no"
            assert message in caplog.text
            assert memory.stats().damaged == 1
            left = rewards(memory)
        assert 1 <= len(set(good) - set(left)) <= 2
        assert set(left) < set(good)
        assert verify(open_dataset(tmp_path)).is_sound

    def test_newest_rows_of_a_ring_that_are_missing_are_taken_in_when_sent_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        good, ring, newest = filled_folder(tmp_path)
        ring.links[np.arange(newest - 1, newest + 1) % (KEPT + 1)] = np.zeros(1, LINK)
        told = list(open_dataset(tmp_path).damage())
        assert told[-1].endswith("is incomplete: the newest 2 rows of source demo are missing")
        with caplog.at_level(logging.WARNING), memory_of(tmp_path) as memory:
            assert "source demo: the newest 2 rows are missing" in caplog.text
            append(memory, 270, 300)
            assert is_identical(contents(memory), good)

    def test_one_flipped_bit_or_a_cut_file_is_reported(self, tmp_path: Path) -> None:
        with memory_of(tmp_path / "good") as memory:
            append(memory, 0, 200)
            good = {int(transition[2]): transition for transition in contents(memory)}
        rng, opened = np.random.default_rng(0), 0
        for case in range(60):
            folder = Path(shutil.copytree(tmp_path / "good", tmp_path / str(case)))
            names = sorted(file for file in folder.iterdir() if file.name != "lock")
            damage(names[rng.integers(len(names))], rng, is_cut=case % 10 == 0)
            try:
                memory = memory_of(folder)
            except DatasetError as error:
                assert str(folder) in str(error)  # noqa: PT017 - most cases are opened
                continue
            opened += 1
            found = contents(memory)
            assert 0 <= len(good) - len(found) <= 3
            assert all(is_identical(good[int(each[2])], each) for each in found)
            memory.close()
        assert opened > 10

    @pytest.mark.parametrize("n_rows", [0, 10_000, "x", None])
    def test_a_manifest_that_was_tampered_with_is_refused(self, n_rows: Any, tmp_path: Path) -> None:
        with memory_of(tmp_path) as memory:
            append(memory, 0, 30)
        body, _ = files.read_manifest(tmp_path)
        files.replace_manifest(tmp_path, body | {"kept": {"demo": body["kept"]["demo"] | {"n_rows": n_rows}}})
        with pytest.raises(DatasetError, match="a manifest must"):
            memory_of(tmp_path)

    @pytest.mark.parametrize("source", ["online", "demo"])
    def test_a_change_of_rows_that_was_cut_short_is_finished(
        self, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = memory_of(tmp_path)
        append(memory, 0, 300)
        batch = memory.take(range(len(memory)))
        is_demo = batch.ids % 2 == 1
        ids = batch.ids[is_demo if source == "demo" else ~is_demo]

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(StoredRing, "_finish_late", die)
            with pytest.raises(KeyboardInterrupt):
                memory.write(ids, rew=np.full(len(ids), 9.0))
        memory._state.abandon()
        with memory_of(tmp_path) as memory:
            after = memory.take(range(len(memory)))
            assert after.ids.tolist() == batch.ids.tolist()
            assert set(after.rew[is_demo].tolist()) != set(after.rew[~is_demo].tolist())
            assert (after.rew[np.isin(after.ids, ids)] == 9).all()
            assert memory.stats().damaged == 0
