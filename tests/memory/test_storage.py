"""A memory that lives in a folder goes on where it was, and tells what the disk did to it."""

import errno
import logging
import os
import shutil
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from damage import damage
from makers import buffer_of, plain_episode, stamped
from nests import is_identical
from networking.numbered import until
from tmrl.datasets import files, row_file
from tmrl.datasets.row_file import RowFile
from tmrl.datasets.stored_ring import LINK
from tmrl.errors import BadSampleError, DatasetError, SchemaError, StorageError, TmrlError
from tmrl.memory import ReplayMemory, storage
from tmrl.transition import Sample, Stamp
from twins import assert_goes_on_alike, assert_reopens_as_it_was, contents

CAPACITY = 40


def open_memory(folder: Path, **kwargs: Any) -> ReplayMemory:
    return ReplayMemory(
        **{"storage_path": folder, "memory_size": CAPACITY, "batch_size": 8, "seed": 0, **kwargs}
    )


def append(memory: ReplayMemory, start: int, stop: int) -> None:
    """Samples of three interleaved workers, each observation the number of the sample."""
    for i in range(start, stop):
        step, worker = divmod(i, 3)
        episode, episode_step = divmod(step, 7)
        obs = np.array([i], np.float32)
        values = (None if episode_step == 0 else -obs, obs, float(i), episode_step == 6, False, {})
        memory.append(buffer_of([Sample(values, Stamp(f"w{worker}", 1, step, episode, episode_step))]))


def assert_nothing_made_up(memory: ReplayMemory) -> None:
    """Whatever is drawn is what `append` above makes."""
    for prev_obs, act, rew, obs, terminated, truncated, _ in contents(memory):
        i = int(obs[0])
        assert i // 3 % 7 != 0
        assert (prev_obs[0], act[0], rew, terminated, truncated) == (i - 3, -i, i, i // 3 % 7 == 6, False)


@pytest.mark.parametrize("n", [0, 1, 4, 20, CAPACITY + 1, CAPACITY + 2, 2 * CAPACITY + 3, 200])
def test_reopened_memory_goes_on_as_one_in_ram_that_never_stopped(n: int, tmp_path: Path) -> None:
    """Rows, streams, statistics and random numbers; B48 for memories that live in a folder."""
    twin = ReplayMemory(memory_size=CAPACITY, batch_size=8, seed=0)
    assert_reopens_as_it_was(partial(open_memory, tmp_path), twin, append, n)


def test_resets_that_wait_for_a_first_action_live_on(tmp_path: Path) -> None:
    ann = stamped(plain_episode(3))
    memory = open_memory(tmp_path)
    memory.append(buffer_of(ann[:1]))
    memory._state.abandon()
    with open_memory(tmp_path) as memory:
        memory.append(buffer_of(ann[1:]))
        assert len(memory) == 3


def test_one_memory_at_a_time_writes_a_folder(tmp_path: Path) -> None:
    with open_memory(tmp_path) as memory:
        append(memory, 0, 30)
        with pytest.raises(StorageError, match=r"is being written by another memory.*ReplayMemory\.load"):
            open_memory(tmp_path)
        assert is_identical(contents(ReplayMemory.load(tmp_path)), contents(memory))
    open_memory(tmp_path).close()


def test_closed_memory_says_so(tmp_path: Path) -> None:
    memory = open_memory(tmp_path)
    append(memory, 0, 30)
    memory.close()
    memory.close()
    assert len(memory) == 0
    for call in (lambda: append(memory, 30, 31), memory.flush, lambda: memory.save(tmp_path / "x")):
        with pytest.raises(StorageError, match="the memory is closed; open its storage_path again to go on"):
            call()


def test_a_memory_that_cannot_be_made_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        open_memory(tmp_path, batch_size=0)
    open_memory(tmp_path).close()


class TestSize:
    def test_the_disk_is_taken_with_the_first_buffer_and_never_more(self, tmp_path: Path) -> None:
        with open_memory(tmp_path, memory_size=1000) as memory:
            append(memory, 0, 6)
            before = {file: file.stat().st_size for file in tmp_path.glob("*.npy")}
            assert sum(file.stat().st_blocks for file in before) * 512 >= sum(before.values())
            append(memory, 6, 2500)
            assert {file: file.stat().st_size for file in tmp_path.glob("*.npy")} == before
            assert memory.stats().bytes_full >= sum(before.values())

    @pytest.mark.parametrize("is_stored", [True, False])
    def test_bytes_stand_for_all_columns(self, is_stored: bool, tmp_path: Path) -> None:
        with ReplayMemory(memory_size="20 kB", storage_path=tmp_path if is_stored else None) as memory:
            assert memory.memory_size == "20 kB"
            assert memory.stats().capacity == 0
            append(memory, 0, 500)
            assert isinstance(memory.memory_size, int)
            assert len(memory) <= memory.memory_size
            assert 19_000 < memory.stats().bytes_full <= 20_000 + 512  # the heads of two files
            memory.memory_size = "10kB"
            assert 9_000 < memory.stats().bytes_full <= 10_000 + 512
            assert_nothing_made_up(memory)

    @pytest.mark.parametrize(
        ("size", "message"),
        [
            ("24 parsecs", r"transitions, or bytes as in \"24GB\", got '24 parsecs'; the units are B, kB"),
            ("GB", "got 'GB'"),
            (0, "memory_size must be at least 1 and below 2147483647, got 0"),
        ],
    )
    def test_what_is_no_size_is_refused(self, size: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ReplayMemory(memory_size=size)

    def test_a_budget_for_less_than_a_transition_is_refused(self) -> None:
        memory = ReplayMemory(memory_size="50B")
        with pytest.raises(
            ValueError, match="must hold at least one transition, two rows of 48 bytes, got '50B'"
        ):
            append(memory, 0, 6)
        memory.memory_size = "96B"
        append(memory, 0, 6)
        assert memory.memory_size == 1

    @pytest.mark.parametrize("size", [1, 10, 39, 41, 90])
    def test_another_size_keeps_the_newest(self, size: int, tmp_path: Path) -> None:
        twin = ReplayMemory(memory_size=CAPACITY, batch_size=8, seed=0)
        append(twin, 0, 100)
        memory = open_memory(tmp_path)
        append(memory, 0, 100)
        memory.close()
        twin.memory_size = size
        with open_memory(tmp_path, memory_size=size) as memory:
            assert memory.memory_size == size
            append(memory, 100, 130)
            append(twin, 100, 130)
            assert_goes_on_alike(twin, memory)
            assert len(list(tmp_path.glob("*.rows.npy"))) == 1


class TestTrouble:
    """Each has a message that says what to do, and leaves what is there usable."""

    def test_full_disk_is_found_with_the_first_buffer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = open_memory(tmp_path)
        ann = stamped(plain_episode(3))
        memory.append(buffer_of(ann[:1]))

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            with pytest.raises(
                StorageError, match=r"must have room for 2,624 bytes .*No space left.*smaller memory_size"
            ):
                memory.append(buffer_of(ann[1:]))
        assert not list(tmp_path.glob("*.npy"))
        memory.append(buffer_of(ann[1:]))
        assert len(memory) == 3
        before = contents(memory)
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            with pytest.raises(StorageError, match="must have room"):
                memory.memory_size = 1000
        assert memory.memory_size == CAPACITY
        memory.append(buffer_of(plain_episode(5)))
        memory.close()
        with open_memory(tmp_path) as memory:
            assert is_identical(contents(memory)[:3], before)
            assert len(memory) == 8

    @pytest.mark.skipif(not Path("/proc/mounts").exists() or os.geteuid() != 0, reason="mounts a small tmpfs")
    def test_full_disk_of_a_real_file_system(self, tmp_path: Path) -> None:
        if os.system(f"mount -t tmpfs -o size=1m tmpfs {tmp_path} 2>/dev/null") != 0:
            pytest.skip("mounting is not allowed here")
        try:
            with open_memory(tmp_path / "memory", memory_size=1e6) as memory:
                with pytest.raises(StorageError, match="No space left on device"):
                    append(memory, 0, 6)
                memory.memory_size = 1000
                append(memory, 0, 1500)
                assert_nothing_made_up(memory)
        finally:
            os.system(f"umount {tmp_path}")

    def test_folder_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(StorageError, match="storage_path must be a folder that can be written, but"):
            open_memory(tmp_path / "file")

        def read_only(*_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(storage.FileLock, "acquire", read_only)
        with pytest.raises(StorageError, match="Read-only file system; choose another one"):
            open_memory(tmp_path / "memory")

    def test_folder_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(DatasetError, match=r"must be empty or written by this package.*'thesis\.tex'"):
            open_memory(tmp_path)
        memory = ReplayMemory()
        memory.append(buffer_of(plain_episode(5)))
        memory.save(tmp_path / "saved")
        with pytest.raises(DatasetError, match=r"must hold a memory that lives there, but holds a snapshot"):
            open_memory(tmp_path / "saved")

    def test_rows_of_another_layout(self, tmp_path: Path) -> None:
        from gymnasium.spaces import Box

        with open_memory(tmp_path) as memory:
            append(memory, 0, 30)
        with pytest.raises(SchemaError, match=r"obs: expected obs float32 of shape \(3,\), found .*\(1,\)"):
            open_memory(tmp_path, observation_space=Box(-1, 1, (3,)))
        with pytest.raises(SchemaError, match=r"info_keys: expected \['success'\], found \[\]"):
            open_memory(tmp_path, info_keys=("success",))
        with pytest.raises(
            SchemaError, match="crc_debug: expected True, found False; make the memory with what"
        ):
            open_memory(tmp_path, crc_debug=True)
        with open_memory(tmp_path, observation_space=Box(-1, 1, (1,))) as memory:
            with pytest.raises(BadSampleError, match="obs"):
                memory.append(buffer_of([(None, np.zeros(3, np.float32), 0.0, False, False, {})]))
            assert len(memory)

    def test_newer_version(self, tmp_path: Path) -> None:
        with open_memory(tmp_path) as memory:
            append(memory, 0, 30)
        body, _ = files.read_manifest(tmp_path)
        files.replace_manifest(tmp_path, body | {"version": 99})
        with pytest.raises(
            DatasetError, match="of version 99, this package reads up to 1; upgrade tmrl-memory"
        ):
            open_memory(tmp_path)

    @pytest.mark.parametrize(
        "ring", [{"name": "../up"}, {"n_rows": 0}, {"rows_head": [1]}, {"links_head": "x"}]
    )
    def test_manifest_that_was_tampered_with(self, ring: Any, tmp_path: Path) -> None:
        with open_memory(tmp_path / "memory") as memory:
            append(memory, 0, 30)
        body, _ = files.read_manifest(tmp_path / "memory")
        files.replace_manifest(tmp_path / "memory", body | {"ring": body["ring"] | ring})
        with pytest.raises(DatasetError, match="a manifest must"):
            open_memory(tmp_path / "memory")
        files.replace_manifest(tmp_path / "memory", body | {"ring": body["ring"] | {"n_rows": 2**60}})
        with pytest.raises(DatasetError, match="is damaged: it must have"):
            open_memory(tmp_path / "memory")
        files.replace_manifest(tmp_path / "memory", body | {"state": body["state"] | {"tally": []}})
        with pytest.raises(DatasetError, match="the rows contradict their manifest"):
            open_memory(tmp_path / "memory")


def filled(folder: Path, n: int = 100) -> list[Any]:
    with open_memory(folder) as memory:
        append(memory, 0, n)
        return contents(memory)


def ring_of(folder: Path) -> RowFile:
    """The files of a memory, to be tampered with."""
    info = row_file.info_in(files.read_manifest(folder)[0])
    assert info is not None
    with open_memory(folder) as memory:
        assert memory.schema is not None
        row_dtype = memory.schema.row_dtype
    return RowFile(folder, info, row_dtype, "r+")


class TestDamage:
    @pytest.mark.parametrize("cases", [100, pytest.param(10_000, marks=pytest.mark.stress)])
    def test_one_flipped_bit_or_a_cut_file_is_reported(self, cases: int, tmp_path: Path) -> None:
        """Opened without the damaged rows, which is said, or refused by name; never wrong data."""
        good = filled(tmp_path / "good")
        by_number = {int(transition[3][0]): transition for transition in good}
        rng = np.random.default_rng(0)
        opened = 0
        for case in range(cases):
            folder = tmp_path / str(case)
            shutil.copytree(tmp_path / "good", folder)
            names = sorted(file for file in folder.iterdir() if file.name != "lock")
            file = names[rng.integers(len(names))]
            damage(file, rng, is_cut=case % 10 == 0)
            try:
                memory = open_memory(folder)
            except DatasetError as error:
                assert str(folder) in str(error)  # noqa: PT017 - most cases are opened
                continue
            found = contents(memory)
            opened += 1
            lost = len(good) - len(found)
            assert memory.stats().damaged == (lost > 0) or lost == 0
            assert 0 <= lost <= 3
            assert all(is_identical(by_number[int(each[3][0])], each) for each in found)
            append(memory, 100, 110)
            assert_nothing_made_up(memory)
            memory.close()
            shutil.rmtree(folder)
        assert opened > cases / 3

    def test_damage_is_told_once_and_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        good = filled(tmp_path)
        file = ring_of(tmp_path)
        for row_id in (70, 71, 85):
            file.rows["obs"][row_id % (CAPACITY + 1)] += 1
        with caplog.at_level(logging.WARNING):
            memory = open_memory(tmp_path)
        assert "3 rows are damaged, the first is row 70; no transition uses them" in caplog.text
        assert memory.stats().damaged == 3
        assert len(good) - len(memory) <= 6
        assert_nothing_made_up(memory)
        memory.close()
        caplog.clear()
        with open_memory(tmp_path) as memory:
            assert "damaged" not in caplog.text
            assert memory.stats().damaged == 3
            append(memory, 100, 300)
            assert_nothing_made_up(memory)
            assert memory.stats().rows == sum(c.rows for c in memory.stats().workers.values()) == CAPACITY + 1

    @pytest.mark.parametrize("field", ["obs", "id", "check"])
    def test_damage_to_the_newest_row_counts_once(
        self, field: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is missing as far as the manifest knows, and not another damaged one beside that."""
        filled(tmp_path)
        file = ring_of(tmp_path)
        (file.rows if field == "obs" else file.links)[field][99 % (CAPACITY + 1)] += 1
        with caplog.at_level(logging.WARNING), open_memory(tmp_path) as memory:
            assert "the newest 1 rows are missing; no transition" in caplog.text
            assert memory.stats().damaged == 1
            append(memory, 99, 120)
            assert_nothing_made_up(memory)

    @pytest.mark.parametrize("lost", [1, 2, 10, 41])
    def test_rows_that_did_not_reach_the_disk_are_taken_in_when_sent_again(
        self, lost: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A power cut: the manifest knows of rows whose pages were never written."""
        good = filled(tmp_path)
        file = ring_of(tmp_path)
        slots = np.arange(100 - lost, 100) % (CAPACITY + 1)
        file.links[slots] = np.zeros(1, LINK)
        with caplog.at_level(logging.WARNING):
            memory = open_memory(tmp_path)
        assert f"the newest {lost} rows are missing" in caplog.text
        assert_nothing_made_up(memory)
        append(memory, 100 - lost, 100)
        assert memory.stats().duplicates == 0
        if lost < 41:
            assert is_identical(contents(memory), good)
        memory.close()

    def test_pages_of_an_earlier_lap_are_no_rows(self, tmp_path: Path) -> None:
        """A page of rows that was not written before a power cut holds valid rows, from before."""
        filled(tmp_path, 60)
        file = ring_of(tmp_path)
        slots = np.arange(80, 90) % (CAPACITY + 1)
        rows, links = file.rows[slots].copy(), file.links[slots].copy()
        with open_memory(tmp_path) as memory:
            append(memory, 60, 100)
        file = ring_of(tmp_path)
        file.rows[slots], file.links[slots] = rows, links
        with open_memory(tmp_path) as memory:
            assert_nothing_made_up(memory)
            assert memory.stats().rows == CAPACITY + 1
            numbers = {int(transition[3][0]) for transition in contents(memory)}
            assert not numbers & set(range(80, 90))

    def test_memory_with_holes_can_be_saved_and_loaded(self, tmp_path: Path) -> None:
        filled(tmp_path / "a")
        ring_of(tmp_path / "a").rows["obs"][70 % (CAPACITY + 1)] += 1
        with open_memory(tmp_path / "a") as memory:
            memory.save(tmp_path / "b")
            assert_goes_on_alike(memory, ReplayMemory.load(tmp_path / "b"))
            assert_goes_on_alike(ReplayMemory.load(tmp_path / "a"), ReplayMemory.load(tmp_path / "b"))
            memory.memory_size = 60
            append(memory, 100, 150)
            assert_nothing_made_up(memory)


class TestLoad:
    def test_a_folder_is_copied_while_another_thread_goes_on_writing(self, tmp_path: Path) -> None:
        memory = open_memory(tmp_path)
        append(memory, 0, 100)
        stop = threading.Event()

        def keep_appending() -> None:
            i = 100
            while not stop.is_set():
                append(memory, i, i + 5)
                i += 5

        thread = threading.Thread(target=keep_appending)
        thread.start()
        try:
            for _ in range(20):
                copy = ReplayMemory.load(tmp_path)
                assert_nothing_made_up(copy)
                assert copy.storage_path is None
        finally:
            stop.set()
            thread.join(30)
            memory.close()

    def test_what_was_saved_can_move_into_a_folder(self, tmp_path: Path) -> None:
        memory = ReplayMemory(memory_size=CAPACITY, batch_size=8, seed=0)
        append(memory, 0, 100)
        memory.save(tmp_path / "saved")
        stored = ReplayMemory.load(tmp_path / "saved", storage_path=tmp_path / "stored")
        assert_goes_on_alike(memory, stored)
        stored.close()
        with open_memory(tmp_path / "stored") as stored:
            append(stored, 90, 120)  # the streams stand where they stood: ten duplicates
            append(memory, 90, 120)
            assert_goes_on_alike(memory, stored)
        with pytest.raises(StorageError, match="storage_path must be an empty folder to load into"):
            ReplayMemory.load(tmp_path / "saved", storage_path=tmp_path / "stored")


class TestFlush:
    def test_flush_syncs_rows_before_the_manifest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with open_memory(tmp_path) as memory:
            append(memory, 0, 30)
            order: list[str] = []
            monkeypatch.setattr(row_file.os, "fsync", lambda _: order.append("rows"))
            monkeypatch.setattr(storage, "replace_manifest", lambda *_: order.append("manifest"))
            memory.flush()
            assert order == ["rows", "rows", "manifest"]
            monkeypatch.undo()

    @pytest.mark.parametrize("interval_s", [None, 0.001])
    def test_flushes_in_the_background_until_it_is_closed(
        self, tmp_path: Path, interval_s: float | None
    ) -> None:
        memory = open_memory(tmp_path, flush_interval_s=interval_s)
        append(memory, 0, 30)

        def is_flushed() -> bool:
            return files.read_manifest(tmp_path)[0]["next"] == 30

        if interval_s is not None:
            until(is_flushed)
        else:
            assert not is_flushed()
        memory.close()
        assert not any(thread.name == "tmrl-repeat" for thread in threading.enumerate())

    def test_flush_of_a_memory_in_ram_does_nothing(self) -> None:
        with ReplayMemory() as memory:
            memory.flush()

    def test_interval_must_be_above_0(self) -> None:
        with pytest.raises(ValueError, match="flush_interval_s must be above 0, or None, got 0"):
            ReplayMemory(flush_interval_s=0)


def test_small_state_goes_into_any_checkpoint(tmp_path: Path) -> None:
    first, second = open_memory(tmp_path), ReplayMemory(memory_size=CAPACITY, batch_size=8, seed=7)
    append(first, 0, 50)
    append(second, 0, 50)
    first.sample()
    second.load_state_dict(first.state_dict())
    assert_goes_on_alike(first, second)
    assert first.state_dict() == second.state_dict()
    first.close()
    with pytest.raises(TmrlError, match="saved state must be"):
        second.load_state_dict({})


def test_files_are_plain_npy_and_json(tmp_path: Path) -> None:
    filled(tmp_path, 30)
    (rows,) = (np.load(file) for file in tmp_path.glob("*.rows.npy"))
    (links,) = (np.load(file) for file in tmp_path.glob("*.links.npy"))
    assert rows["obs"][:30, 0].tolist() == list(range(30))
    assert links["id"][:32].tolist() == [*range(30), -1, -1]
    assert links["step"][:6].tolist() == [0, 0, 0, 1, 1, 1]
