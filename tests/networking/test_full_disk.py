"""A disk that is full: what could give room back can always be written down, and all go on by themselves."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from makers import parcel_of
from networking.numbered import numbered, steps_of, until
from records import MAX_BYTES, fill, read_all, record, segments
from tmrl.datasets import files
from tmrl.errors import StorageError
from tmrl.networking import disk_log, record_file, reserve
from tmrl.networking.connecting import outbox_of
from tmrl.networking.delivery import COUNTS, EPOCHS_KEPT, Ledger, Outbox
from tmrl.networking.disk_log import DiskLog
from tmrl.networking.hub import MAX_WORKERS
from tmrl.networking.messages import Put
from tmrl.networking.reserve import RESERVE, Reserve
from tmrl.networking.server import Server
from tmrl.networking.spool import LEDGER_BYTES, Spool
from tmrl.networking.trainer_line import TrainerLine
from tmrl.networking.worker_line import WorkerLine
from tmrl.transition import EpisodeRecord


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_while_reserved(folder: Path, body: dict[str, Any]) -> int:
    """A disk that takes a note only once the reserve is given up."""
    reserve = folder / RESERVE
    return full() if reserve.exists() and reserve.stat().st_size else files.replace_manifest(folder, body)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name == "nt" or os.geteuid() or os.system(f"mount -t tmpfs -o size=4m tmpfs {folder} 2>/dev/null"):
        pytest.skip("mounting is not allowed here")
    yield folder
    os.system(f"umount -l {folder}")


def fill_up(folder: Path) -> Path:
    """Takes all room there is, as others do; returns the file that has it."""
    file = folder / "of others"
    with file.open("wb", buffering=0) as stream:
        for n_bytes in (1 << 16, 1 << 10):
            try:
                while stream.write(bytes(n_bytes)):
                    pass
            except OSError:
                continue
    return file


@pytest.mark.parametrize("has_fallocate", [True, False])
def test_a_reserve_holds_room_until_it_is_given_up(
    has_fallocate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_fallocate:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    held = Reserve(tmp_path)
    held.take(100_000)
    held.take(5)
    assert (tmp_path / RESERVE).stat().st_blocks * 512 >= 100_000
    Reserve(tmp_path).take(200_000)  # that of an earlier process grows
    assert (tmp_path / RESERVE).stat().st_size == 200_000
    assert held.give_up()
    assert not held.give_up()
    assert not (tmp_path / RESERVE).exists()


def test_a_reserve_keeps_what_it_has_where_there_is_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Reserve(tmp_path)
    held.take(1000)
    with monkeypatch.context() as patch:
        patch.setattr(reserve, "_allocate", full)
        held.take(5000)
    assert (tmp_path / RESERVE).stat().st_size == 1000
    held.take(5000)
    assert (tmp_path / RESERVE).stat().st_size == 5000


def test_a_note_on_a_full_disk_takes_the_room_of_the_reserve_which_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DiskLog(tmp_path, MAX_BYTES) as log:
        fill(log, 3)
        with monkeypatch.context() as patch:
            patch.setattr(disk_log, "replace_manifest", full_while_reserved)
            log.note({"n": 1}, forget=2)
            assert (log.noted, log.first) == ({"n": 1}, 2)
            assert (tmp_path / RESERVE).stat().st_size == MAX_BYTES // 8
            patch.setattr(reserve, "_allocate", full)
            log.note({"n": 2})
            assert (tmp_path / RESERVE).stat().st_size == 0
        log.note({"n": "x" * MAX_BYTES})
        assert (tmp_path / RESERVE).stat().st_size >= 2 * MAX_BYTES
    assert not list(tmp_path.glob("*.tmp"))


def test_a_note_that_finds_no_room_leaves_none_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DiskLog(tmp_path, MAX_BYTES) as log:
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync", full)
            with pytest.raises(StorageError, match="No space left"):
                log.note({"n": 1})
        assert {file.name for file in tmp_path.iterdir()} <= {"manifest.json", "lock", f"{0:020}.records"}
        log.note({"n": 2})
        assert (tmp_path / RESERVE).exists()


def test_the_reserve_of_a_server_has_room_for_all_workers_it_may_know() -> None:
    ledger, largest = Ledger(), (1 << 62) - 1
    for number in range(MAX_WORKERS):
        name = f"{number:04}" + "\U0001f916" * 60
        for epoch in range(EPOCHS_KEPT):
            position = ledger.position(name, largest - epoch, largest)
            for count in COUNTS:
                setattr(position, count, largest)
    assert len(json.dumps(ledger.to_json())) + 1000 < LEDGER_BYTES


def test_a_log_on_a_disk_that_is_full_of_others_opens_and_gives_room_back(small_disk: Path) -> None:
    with DiskLog(small_disk / "log", 1 << 20, 1 << 17) as log:
        fill(log, 20, 30_000)
    others = fill_up(small_disk)
    with DiskLog(small_disk / "log", 1 << 20, 1 << 17) as log:
        log.note({"n": 1}, forget=15)
        fill(log, 8, 30_000)
        assert read_all(log) == [record(i, 30_000) for i in range(15, 28)]
        others.unlink()


def test_a_file_of_forgotten_records_does_not_keep_the_disk_full(small_disk: Path) -> None:
    """It is the newest, and is not yet as large as it may be."""
    with DiskLog(small_disk / "log", 1 << 30, 1 << 27, reserve_bytes=1 << 16) as log:
        with pytest.raises(StorageError, match="No space left"):
            fill(log, 200, 30_000)
        held = log.next
        with pytest.raises(StorageError, match="No space left"):
            fill(log, 1, 30_000)  # still held
        log.note({}, forget=held)
        fill(log, 50, 30_000)
        assert read_all(log) == [record(i, 30_000) for i in range(held, held + 50)]


def test_an_outbox_drops_also_where_the_disk_is_full_of_others(small_disk: Path) -> None:
    buffer = numbered("a", 0, 20)
    buffer.record_episode(EpisodeRecord("a", 1.0, 20, is_test=False, policy_version=1))
    parcel = parcel_of(buffer)
    with closing(Outbox("a", DiskLog(small_disk / "a", 100_000), True, "drop")) as outbox:
        while outbox._log.has_room(len(parcel)):
            outbox.put([parcel])
        others = fill_up(small_disk)
        held = outbox.next
        outbox.put([parcel])
        assert outbox.dropped_samples == 20 * outbox.first > 0
        assert outbox.next == held + 1
        others.unlink()


def let_hold(max_bytes: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the disk take no more of a log than so many bytes."""
    write = record_file._write

    def write_if_small(descriptor: int, parts: Any, n_bytes: int) -> None:
        if sum(file.stat().st_size for file in segments(folder)) + n_bytes > max_bytes:
            full()
        write(descriptor, parts, n_bytes)

    monkeypatch.setattr(record_file, "_write", write_if_small)


@pytest.mark.parametrize("ends", [True, False])
def test_an_outbox_that_may_drop_goes_on_where_the_disk_has_less_room_than_it_may_take(
    ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = numbered("a", 0, 20)
    if ends:
        buffer.record_episode(EpisodeRecord("a", 1.0, 20, is_test=False, policy_version=1))
    parcel = parcel_of(buffer)
    let_hold(50_000, tmp_path, monkeypatch)
    with closing(Outbox("a", DiskLog(tmp_path, 1 << 20, 1 << 13), True, "drop")) as outbox:
        for number in range(300):
            assert outbox.put([parcel]) == number
        assert 20_000 < outbox.n_bytes < 50_000
        assert outbox.dropped_samples == 20 * outbox.first > 0
        assert caplog.text.count("is full") == 1
        with monkeypatch.context() as patch:
            patch.setattr(record_file, "_write", full)
            with pytest.raises(StorageError, match="No space left"):
                outbox.put([parcel])  # all is dropped, and there is still no room
        assert outbox.first == outbox.next


def test_an_outbox_drops_nothing_where_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    parcel = parcel_of(numbered("a", 0, 20))
    with closing(Outbox("a", DiskLog(tmp_path, 1 << 20), True, "drop")) as outbox:
        outbox.put([parcel])
        with monkeypatch.context() as patch:
            patch.setattr(record_file, "_write", failing)
            with pytest.raises(StorageError, match="Input/output error"):
                outbox.put([parcel])
        assert outbox.put([parcel]) == 1
        assert (outbox.first, outbox.dropped_samples) == (0, 0)


def test_a_spool_on_a_disk_that_has_less_room_than_it_may_take_gives_room_back_when_it_finds_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = parcel_of(numbered("a", 0, 100))
    let_hold(100_000, tmp_path, monkeypatch)
    spool = Spool(DiskLog(tmp_path, 1 << 20, 1 << 14), is_durable=True)
    position = spool.ledger.greet("a", 1, 0)
    put = Put(0, (len(parcel),) * 100, 0, parcel * 100)
    with pytest.raises(StorageError, match="No space left"):
        spool.take("a", position, put)
    assert 0 < position.expected < 50
    spool.forget(spool.next)
    while position.expected < 100:
        before = position.expected
        with suppress(StorageError):
            spool.take("a", position, put)
        assert position.expected > before
        spool.forget(spool.next)
    spool.close()


@pytest.mark.timeout(120)
def test_workers_go_on_by_themselves_once_the_trainer_has_emptied_a_disk_smaller_than_its_spool(
    small_disk: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with (
        Server(port=None, spool=small_disk / "spool", spool_bytes=8_000_000) as server,
        WorkerLine(server.loopback, outbox_of("a", tmp_path / "outbox"), batch_s=0.0, close_s=0.1) as worker,
    ):
        arrived: list[int] = []
        for first in range(0, 100_000, 1000):
            worker.send(numbered("a", first, 1000))
        until(lambda: "the server cannot keep what it gets" in caplog.text, 60)
        assert "No space left" in caplog.text
        fill_up(small_disk)
        with TrainerLine(server.loopback) as trainer:

            def have_all_come() -> bool:
                arrived.extend(steps_of(trainer.retrieve_buffer()).get("a", []))
                return len(arrived) >= 100_000

            until(have_all_come, 100)
            assert worker.flush(30)
        assert arrived == list(range(100_000))
