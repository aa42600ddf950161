"""The log on disk: whatever happens to the folder or the disk, it tells the truth."""

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from damage import damage
from records import MAX_BYTES, fill, read_all, record, segments
from tmrl.datasets import files
from tmrl.errors import StorageError
from tmrl.networking import disk_log, record_file
from tmrl.networking.disk_log import DiskLog
from tmrl.networking.record_log import HEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

# The folder


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        assert log.noted == {}
        fill(log, 20)
        log.forget(7)
        log.note({"epoch": 3, "name": "ann"})
        log.forget(8)
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        assert (log.first, log.next, log.noted) == (8, 20, {"epoch": 3, "name": "ann"})
        assert read_all(log) == [record(i) for i in range(8, 20)]


def test_an_empty_log_remembers_the_next_number(tmp_path: Path) -> None:
    for lap in range(1, 4):
        with DiskLog(tmp_path, MAX_BYTES, 400) as log:
            assert log.first == log.next == (lap - 1) * 20
            fill(log, 20)
            log.forget(log.next)
            assert len(segments(tmp_path)) == 1


def test_forgotten_segments_leave_the_disk(tmp_path: Path) -> None:
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        fill(log, 50)
        assert len(segments(tmp_path)) == 10  # of five records of 74 bytes
        log.forget(23)
        assert [int(file.stem) for file in segments(tmp_path)] == [20, 25, 30, 35, 40, 45]
        assert read_all(log) == [record(i) for i in range(23, 50)]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files")
def test_two_segments_are_open_at_most(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        fill(log, 200)
        read_all(log)
        fill(log, 200)
        assert len(os.listdir("/proc/self/fd")) <= before + 3  # the lock is open too
    assert len(os.listdir("/proc/self/fd")) == before


def test_second_opener_is_told_and_the_first_goes_on(tmp_path: Path) -> None:
    with DiskLog(tmp_path, MAX_BYTES) as log:
        with pytest.raises(
            StorageError, match=r"is open already, in this process or another; close it there"
        ):
            DiskLog(tmp_path, MAX_BYTES)
        fill(log, 1)
    DiskLog(tmp_path, MAX_BYTES).close()


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = DiskLog(tmp_path, MAX_BYTES)
    fill(log, 1)
    log.close()
    log.close()
    uses: list[Callable[[], object]] = [
        *(lambda: log.append([b""]), lambda: log.read(0, 1), lambda: log.forget(1)),
        *(log.sync, lambda: log.note({})),
    ]
    for use in uses:
        with pytest.raises(StorageError, match="is closed; open it again to go on"):
            use()


def test_foreign_folders_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match=r"must be empty or hold a log, but holds 'thesis\.tex'"):
        DiskLog(tmp_path, MAX_BYTES)
    assert {file.name for file in tmp_path.iterdir()} <= {"thesis.tex", "lock"}
    with pytest.raises(StorageError, match=r"must be a folder that can be written, but: .*File exists"):
        DiskLog(tmp_path / "thesis.tex", MAX_BYTES)


def test_a_foreign_file_beside_a_log_is_refused(tmp_path: Path) -> None:
    DiskLog(tmp_path, MAX_BYTES).close()
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match=r"must be empty or hold a log, but holds 'thesis\.tex'"):
        DiskLog(tmp_path, MAX_BYTES)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    files.replace_manifest(tmp_path, {"kind": "dataset"})
    with pytest.raises(StorageError, match="must hold a log, but holds a dataset; choose another folder"):
        DiskLog(tmp_path, MAX_BYTES)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    DiskLog(tmp_path, MAX_BYTES).close()
    body, _ = files.read_manifest(tmp_path)
    files.replace_manifest(tmp_path, body | {"version": files.VERSION + 1})
    with pytest.raises(StorageError, match=r"is of version 2, this package reads up to 1; upgrade"):
        DiskLog(tmp_path, MAX_BYTES)


@pytest.mark.parametrize("octets", [b"", b"{}", b"\xff\xff"])
def test_a_damaged_manifest_is_refused(octets: bytes, tmp_path: Path) -> None:
    DiskLog(tmp_path, MAX_BYTES).close()
    (tmp_path / "manifest.json").write_bytes(octets)
    with pytest.raises(StorageError, match=r"manifest\.json is damaged"):
        DiskLog(tmp_path, MAX_BYTES)


def test_a_folder_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    with DiskLog(tmp_path, MAX_BYTES) as log:
        fill(log, 3)
    (tmp_path / "manifest.json").rename(tmp_path.with_name("kept"))
    with pytest.raises(StorageError, match=r"holds records, but no manifest\.json; put it back to read them"):
        DiskLog(tmp_path, MAX_BYTES)
    tmp_path.with_name("kept").rename(tmp_path / "manifest.json")
    segments(tmp_path)[0].unlink()
    with pytest.raises(StorageError, match="is incomplete: its segments are missing; put them back"):
        DiskLog(tmp_path, MAX_BYTES)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(disk_log.FileLock, "acquire", read_only)
    with pytest.raises(
        StorageError, match=r"must be a folder that can be written, but: .*Read-only file system"
    ):
        DiskLog(tmp_path, MAX_BYTES)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(
            StorageError, match=r"must be a folder that can be written, but: .*Permission denied"
        ):
            DiskLog(tmp_path, MAX_BYTES)
    finally:
        tmp_path.chmod(0o700)


def test_a_note_is_a_copy_and_must_be_json(tmp_path: Path) -> None:
    document: dict[str, Any] = {"acks": [1, 2]}
    with DiskLog(tmp_path, MAX_BYTES) as log:
        log.note(document)
        document["acks"].append(3)
        assert log.noted == {"acks": [1, 2]}
        with pytest.raises(TypeError, match="not JSON serializable"):
            log.note({"x": object()})
        assert log.noted == {"acks": [1, 2]}


def test_a_note_and_what_it_gives_up_are_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DiskLog(tmp_path / "log", MAX_BYTES, 400) as log:
        fill(log, 20)
        with pytest.raises(
            ValueError, match="before must be at most the number of the next record, 20, got 21"
        ):
            log.note({"n": 1}, forget=21)
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync", full)
            with pytest.raises(StorageError, match="No space left"):
                log.note({"n": 1}, forget=13)
        assert (log.noted, log.first) == ({}, 0)
        monkeypatch.setattr(
            DiskLog, "_forget", lambda *_: shutil.copytree(tmp_path / "log", tmp_path / "killed")
        )
        log.note({"n": 1}, forget=13)
        monkeypatch.undo()
    with DiskLog(tmp_path / "killed", MAX_BYTES, 400) as log:
        assert (log.noted, log.first, log.next) == ({"n": 1}, 13, 20)


def test_a_note_that_fails_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DiskLog(tmp_path, MAX_BYTES) as log:
        log.note({"n": 1})
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync", full)
            with pytest.raises(StorageError, match="No space left"):
                log.note({"n": 2})
        assert log.noted == {"n": 1}
        shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    with DiskLog(tmp_path.with_name("copy"), MAX_BYTES) as log:
        assert log.noted == {"n": 1}
        assert not list(tmp_path.with_name("copy").glob("*.tmp"))


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


# The disk


@pytest.mark.parametrize("taken", [0, 1, HEAD_BYTES, HEAD_BYTES + 1, HEAD_BYTES + 49])
def test_a_full_disk_is_told_and_leaves_the_log_as_it_was(
    taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systems do: what still fits is taken, the rest is refused."""

    with DiskLog(tmp_path, MAX_BYTES) as log:
        fill(log, 3)
        write = os.write
        with monkeypatch.context() as patch:
            patch.setattr(
                os, "writev", lambda fd, parts: write(fd, b"".join(parts)[:taken]) if taken else full()
            )
            patch.setattr(os, "write", full)
            with pytest.raises(
                StorageError, match=r"must be a folder that can be written, but: .*No space left"
            ):
                fill(log, 1)
        assert (log.next, read_all(log)) == (3, [record(i) for i in range(3)])
        assert segments(tmp_path)[0].stat().st_size == log.n_bytes
        fill(log, 3)
        assert read_all(log) == [record(i) for i in range(6)]
    with DiskLog(tmp_path, MAX_BYTES) as log:
        assert (log.cut_bytes, read_all(log)) == (0, [record(i) for i in range(6)])


def test_a_full_disk_at_a_new_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DiskLog(tmp_path, MAX_BYTES, 100) as log:
        fill(log, 3)
        with monkeypatch.context() as patch:
            patch.setattr(record_file.os, "open", full)
            with pytest.raises(StorageError, match="No space left"):
                fill(log, 1)
        fill(log, 3)
        assert read_all(log) == [record(i) for i in range(6)]


@pytest.mark.skipif(not Path("/proc/mounts").exists() or os.geteuid() != 0, reason="mounts a small tmpfs")
def test_a_full_disk_of_a_real_file_system(tmp_path: Path) -> None:
    if os.system(f"mount -t tmpfs -o size=1m tmpfs {tmp_path} 2>/dev/null") != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with DiskLog(tmp_path / "log", 1 << 30, 1 << 17) as log:
            with pytest.raises(StorageError, match="No space left on device"):
                fill(log, 100, 30_000)
            held = log.next
            assert held > 20
            assert read_all(log) == [record(i, 30_000) for i in range(held)]
            log.forget(20)
            fill(log, 10, 30_000)
            assert read_all(log) == [record(i, 30_000) for i in range(20, held + 10)]
    finally:
        os.system(f"umount {tmp_path}")


def test_a_part_that_cannot_be_cut_off_stops_appending_but_not_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DiskLog(tmp_path, MAX_BYTES) as log:
        fill(log, 3)
        write = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", lambda descriptor, parts: write(descriptor, parts[0]))
            patch.setattr(os, "write", full)
            patch.setattr(os, "ftruncate", full)
            with pytest.raises(StorageError, match="No space left"):
                fill(log, 1)
        with pytest.raises(
            StorageError, match=r"ends in a part of a record that could not be cut off: .*No space"
        ):
            fill(log, 1)
        assert read_all(log) == [record(i) for i in range(3)]
    with DiskLog(tmp_path, MAX_BYTES) as log:
        assert log.cut_bytes == HEAD_BYTES
        fill(log, 1)
        assert read_all(log) == [record(i) for i in range(4)]


def test_an_interrupted_append_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int, parts: Any) -> int:
        os.write(descriptor, b"".join(parts))
        raise KeyboardInterrupt

    with DiskLog(tmp_path, MAX_BYTES) as log:
        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", interrupted)
            with pytest.raises(KeyboardInterrupt):
                fill(log, 1)
        assert (log.next, segments(tmp_path)[0].stat().st_size) == (0, 0)


def test_systems_without_the_calls_of_posix_are_served_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "writev")
    monkeypatch.delattr(os, "pread")
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        fill(log, 20)
        assert read_all(log) == [record(i) for i in range(20)]
        fill(log, 20)
        assert read_all(log) == [record(i) for i in range(40)]


def test_sync_covers_every_segment_and_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that an earlier process appended count too: it may have been killed before it synced them."""
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        fill(log, 12)
    synced: list[str] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("asks which files are synced")
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        monkeypatch.setattr(os, "fsync", watch)
        fill(log, 6)
        assert log.sync() == 18
        assert synced == [*(file.name for file in segments(tmp_path)), tmp_path.name]
        synced.clear()
        assert log.sync() == 18
        assert synced == []
        fill(log, 1)
        assert log.sync() == 19
        assert synced == [segments(tmp_path)[-1].name]


def test_a_segment_is_removed_after_the_name_of_the_next_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync_folder, unlink = files.sync_folder, Path.unlink
    monkeypatch.setattr(disk_log, "sync_folder", lambda folder: [events.append("names"), sync_folder(folder)])
    monkeypatch.setattr(
        Path, "unlink", lambda file, **kwargs: [events.append("unlink"), unlink(file, **kwargs)]
    )
    with DiskLog(tmp_path, MAX_BYTES, 100) as log:
        fill(log, 3)
        log.forget(3)
        assert events == ["names", "unlink", "unlink"]
        fill(log, 1)
        assert events == ["names", "unlink", "unlink", "names", "unlink"]


def test_a_sync_that_failed_once_fails_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system could not write it may count as written the next time."""
    log = DiskLog(tmp_path, MAX_BYTES)
    fill(log, 2)
    assert log.sync() == 2
    fill(log, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            StorageError, match=r"could not be put on the disk: .*; records from 2 on may not survive"
        ):
            log.sync()
    with pytest.raises(StorageError, match="check the disk, then open the log again"):
        log.sync()
    with pytest.raises(StorageError, match="could not be put on the disk"):
        log.close()
    DiskLog(tmp_path, MAX_BYTES).close()


def test_another_thread_syncs_while_the_owner_goes_on(tmp_path: Path) -> None:
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        stops: list[int] = []
        failures: list[BaseException] = []
        is_over = threading.Event()

        def keep_syncing() -> None:
            try:
                while not is_over.is_set():
                    stops.append(log.sync())
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=keep_syncing)
        thread.start()
        try:
            for _ in range(2000):
                fill(log, 1)
                log.forget(max(0, log.next - 30))
                assert log.read(log.first, 1) == [record(log.first)]
        finally:
            is_over.set()
            thread.join(60)
        assert failures == []
        assert stops == sorted(stops)
        assert log.sync() == 2000


# Damage


def test_a_flipped_bit_in_the_middle_is_named_and_passed_over(tmp_path: Path) -> None:
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        fill(log, 20)
    file = segments(tmp_path)[1]  # records 5 to 9
    octets = bytearray(file.read_bytes())
    octets[2 * 74 + 30] ^= 1
    file.write_bytes(octets)
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        assert (log.damaged, log.cut_bytes, log.next) == ((range(7, 8),), 0, 20)
        assert log.read(0, 10_000) == [record(i) for i in range(7)]
        with pytest.raises(
            StorageError, match=rf"{file.name} is damaged: record 7 is not what was written; forget"
        ):
            log.read(7, 10_000)
        assert log.read(8, 10_000) == [record(i) for i in range(8, 20)]
        fill(log, 1)
        log.forget(8)
        assert read_all(log) == [record(i) for i in range(8, 21)]


def test_a_bit_that_flips_while_the_log_is_open_is_found_when_read(tmp_path: Path) -> None:
    with DiskLog(tmp_path, MAX_BYTES) as log:
        fill(log, 3)
        with segments(tmp_path)[0].open("r+b") as stream:
            stream.seek(80)
            stream.write(b"\0\0\0")
        assert log.read(0, 1000) == [record(0)]
        with pytest.raises(StorageError, match="record 1 is not what was written"):
            log.read(1, 1000)


def test_a_lost_segment_is_told(tmp_path: Path) -> None:
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        fill(log, 20)
    segments(tmp_path)[1].unlink()
    with DiskLog(tmp_path, MAX_BYTES, 400) as log:
        assert log.damaged == (range(5, 10),)
        assert log.read(3, 10_000) == [record(3), record(4)]
        for lost in range(5, 10):
            with pytest.raises(StorageError, match=f"record {lost} is not what was written"):
                log.read(lost, 10_000)
        assert log.read(10, 10_000) == [record(i) for i in range(10, 20)]


def test_records_lost_with_the_power_after_they_were_forgotten_leave_no_number_twice(tmp_path: Path) -> None:
    with DiskLog(tmp_path, MAX_BYTES) as log:
        fill(log, 5)
        log.forget(5)
    segments(tmp_path)[0].write_bytes(segments(tmp_path)[0].read_bytes()[:100])
    with DiskLog(tmp_path, MAX_BYTES) as log:
        assert (log.first, log.next, log.damaged) == (5, 5, ())
        fill(log, 2)
        assert read_all(log) == [record(5), record(6)]


def test_a_record_that_is_not_in_its_place_is_damaged(tmp_path: Path) -> None:
    with DiskLog(tmp_path, MAX_BYTES) as log:
        fill(log, 4)
    file = segments(tmp_path)[0]
    octets = file.read_bytes()
    file.write_bytes(octets[:74] + bytes(10) + octets[74:])
    with DiskLog(tmp_path, MAX_BYTES) as log:
        assert (log.damaged, log.next) == ((range(1, 2),), 4)
        assert log.read(0, 1000) == [record(0)]
        assert log.read(2, 1000) == [record(2), record(3)]


def test_a_payload_that_looks_like_a_record_is_none(tmp_path: Path) -> None:
    """Even one that holds records of another log, when its own head is gone."""
    with DiskLog(tmp_path / "other", MAX_BYTES) as other:
        fill(other, 5)
    forged = segments(tmp_path / "other")[0].read_bytes()
    with DiskLog(tmp_path / "log", MAX_BYTES) as log:
        log.append([forged])
    file = segments(tmp_path / "log")[0]
    assert file.read_bytes()[:4] != forged[:4]  # so that none of it has to be looked at
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    with DiskLog(tmp_path / "log", MAX_BYTES) as log:
        assert (log.next, log.cut_bytes) == (0, len(forged) + HEAD_BYTES)


@pytest.mark.parametrize("cases", [50, pytest.param(5000, marks=pytest.mark.stress)])
def test_random_damage_is_told_and_never_read(cases: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(cases)
    with DiskLog(tmp_path / "whole", MAX_BYTES, 400) as log:
        fill(log, 17)
    for case in range(cases):
        folder = tmp_path / str(case)
        shutil.copytree(tmp_path / "whole", folder)
        file = segments(folder)[rng.integers(4)]
        before = file.read_bytes()
        after = damage(file, rng, is_cut=case % 2 == 0)
        with DiskLog(folder, MAX_BYTES, 400) as log:
            is_cut_between_records = len(after) % 74 == 0 and len(after) < len(before)
            is_newest = file.name == f"{15:020}.records"
            assert log.damaged or log.cut_bytes or (is_cut_between_records and is_newest)
            lost = {number for numbers in log.damaged for number in numbers}
            for number in range(log.next):
                if number in lost:
                    with pytest.raises(StorageError, match=f"record {number} is not what was written"):
                        log.read(number, 1)
                else:
                    assert log.read(number, 1) == [record(number)]
            assert log.next == 17 or is_newest
            fill(log, 1)
            assert log.read(log.next - 1, 1) == [record(log.next - 1)]
        shutil.rmtree(folder)
