"""Logs: records come back as they went in, under their numbers; on disk as in memory."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from records import MAX_BYTES, fill, read_all, record, segments
from tmrl.errors import StorageError
from tmrl.networking.disk_log import DiskLog
from tmrl.networking.record_log import HEAD_BYTES, RamLog, RecordLog


@pytest.fixture(params=["ram", "disk"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A function that opens a log; closed at the end."""
    opened: list[RecordLog] = []

    def open_one(max_bytes: int = MAX_BYTES) -> RecordLog:
        opened.append(RamLog(max_bytes) if request.param == "ram" else DiskLog(tmp_path / "log", max_bytes))
        return opened[-1]

    yield open_one
    for log in opened:
        log.close()


def test_records_are_numbered_from_zero_and_come_back(open_log: Callable[..., RecordLog]) -> None:
    log = open_log()
    assert (log.first, log.next, log.n_bytes) == (0, 0, 0)
    assert log.read(0, 100) == []
    assert [log.append([b"one"]), log.append([b"", b"tw", memoryview(b"o!")[:1]]), log.append([])] == [
        0,
        1,
        2,
    ]
    assert log.read(0, 1000) == [b"one", b"two", b""]
    assert log.read(2, 1000) == [b""]
    assert (log.first, log.next, log.n_bytes) == (0, 3, 6 + 3 * HEAD_BYTES)


def test_views_of_any_dtype_and_many_parts_are_joined(open_log: Callable[..., RecordLog]) -> None:
    log = open_log()
    numbers = np.arange(6, dtype=np.float64).reshape(2, 3)
    log.append([b"head", memoryview(numbers)])
    log.append([bytes([i % 256]) for i in range(3000)])
    assert log.read(0, MAX_BYTES) == [b"head" + numbers.tobytes(), bytes(i % 256 for i in range(3000))]


def test_a_record_is_a_copy(open_log: Callable[..., RecordLog]) -> None:
    log = open_log()
    octets = bytearray(b"before")
    log.append([memoryview(octets)])
    octets[:] = b"after!"
    assert log.read(0, 100) == [b"before"]


def test_a_read_takes_what_fits_but_at_least_one(open_log: Callable[..., RecordLog]) -> None:
    log = open_log()
    fill(log, 10)
    size = 50 + HEAD_BYTES
    assert [len(log.read(3, n)) for n in (0, 1, size, 2 * size - 1, 2 * size, 100 * size)] == [
        1,
        1,
        1,
        1,
        2,
        7,
    ]


def test_forgotten_records_are_gone_and_leave_room(open_log: Callable[..., RecordLog]) -> None:
    log = open_log()
    while log.has_room(1000):
        fill(log, 1, 1000)
    before = log.next
    with pytest.raises(
        StorageError, match=r"must stay within max_bytes=65,536, but it holds 6\d,\d+ bytes and"
    ):
        log.append([bytes(1000)])
    assert (log.next, log.n_bytes) == (before, before * (1000 + HEAD_BYTES))
    log.forget(before - 1)
    assert log.has_room(1000)
    assert log.read(before - 1, 1) == [record(before - 1, 1000)]
    with pytest.raises(LookupError, match=rf"start must be from {before - 1}, the oldest record held, to"):
        log.read(before - 2, 1)
    log.forget(3)
    assert log.first == before - 1
    fill(log, 20, 1000)
    assert read_all(log) == [record(i, 1000) for i in range(before - 1, before + 20)]


def test_a_log_of_which_nothing_is_held_has_all_its_room(open_log: Callable[..., RecordLog]) -> None:
    log = open_log()
    whole = MAX_BYTES - HEAD_BYTES
    for number in range(4):
        assert log.has_room(whole)
        assert not log.has_room(whole + 1)
        log.append([record(number, whole)])
        assert not log.has_room(0)
        log.forget(log.next)
    assert (log.first, log.next) == (4, 4)


def test_what_does_not_exist_is_refused(open_log: Callable[..., RecordLog]) -> None:
    log = open_log()
    fill(log, 2)
    with pytest.raises(LookupError, match="to 2, the next one, got 3"):
        log.read(3, 1)
    with pytest.raises(ValueError, match="before must be at most the number of the next record, 2, got 3"):
        log.forget(3)
    assert read_all(log) == [record(0), record(1)]


def test_wrong_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="max_bytes must be at least 1, got 0"):
        RamLog(0)
    with pytest.raises(ValueError, match="segment_bytes must be at least 1, got 0"):
        DiskLog(tmp_path, 100, segment_bytes=0)
    monkeypatch.setattr("tmrl.networking.record_log.MAX_RECORD_BYTES", 99)
    with pytest.raises(ValueError, match="a record must be at most 99 bytes, got 100; split it"):
        RamLog(1000).append([bytes(100)])


def test_a_log_in_memory_is_never_safe() -> None:
    log = RamLog(1000)
    fill(log, 3)
    log.forget(1)
    assert log.sync() == 1


class LogMachine(RuleBasedStateMachine):
    """Drives a log on disk, one in memory, and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(TEMPORARY[-1]) / str(len(os.listdir(TEMPORARY[-1])))
        self.max_bytes, self.segment_bytes = 2000, 200
        self.open()
        self.ram = RamLog(1 << 30)
        self.records: list[bytes] = []
        self.first = 0

    def open(self) -> None:
        self.disk = DiskLog(self.folder, self.max_bytes, self.segment_bytes)
        assert self.disk.cut_bytes == 0
        assert self.disk.damaged == ()

    @rule(parts=st.lists(st.binary(max_size=120), max_size=3))
    def append(self, parts: list[bytes]) -> None:
        n_bytes = sum(map(len, parts))
        if not self.disk.has_room(n_bytes):
            with pytest.raises(StorageError, match="must stay within max_bytes"):
                self.disk.append(parts)
            # At most an eighth is lost to what is forgotten but not given back.
            held = sum(HEAD_BYTES + len(one) for one in self.records[self.first :])
            assert held + HEAD_BYTES + n_bytes > self.max_bytes * 7 / 8 - 400
            return
        assert self.disk.append(parts) == self.ram.append(parts) == len(self.records)
        self.records.append(b"".join(parts))

    @precondition(lambda self: self.first < len(self.records))
    @rule(where=st.floats(0, 1, exclude_max=True), max_bytes=st.integers(0, 600))
    def read(self, where: float, max_bytes: int) -> None:
        start = self.first + int(where * (len(self.records) - self.first))
        found = self.disk.read(start, max_bytes)
        assert found == self.ram.read(start, max_bytes)
        assert found
        assert found == self.records[start : start + len(found)]

    @rule(where=st.floats(0, 1))
    def forget(self, where: float) -> None:
        self.first += round(where * (len(self.records) - self.first))
        self.disk.forget(self.first)
        self.ram.forget(self.first)

    @rule(where=st.floats(0, 1))
    def room_once_some_are_forgotten(self, where: float) -> None:
        before = self.first + round(where * (len(self.records) - self.first))
        held = sum(HEAD_BYTES + len(one) for one in self.records[before:])
        free = self.ram.max_bytes - held - HEAD_BYTES
        assert self.ram.has_room(free, before)
        assert not self.ram.has_room(free + 1, before)

    @rule()
    def sync(self) -> None:
        assert self.disk.sync() == len(self.records)

    @rule(document=st.dictionaries(st.text(max_size=3), st.integers(), max_size=2))
    def note(self, document: dict[str, int]) -> None:
        self.disk.note(document)
        assert self.disk.noted == document

    @rule()
    def reopen(self) -> None:
        noted = self.disk.noted
        self.disk.close()
        self.open()
        assert self.disk.noted == noted

    @invariant()
    def counts_agree(self) -> None:
        assert (self.disk.first, self.disk.next) == (self.ram.first, self.ram.next)
        assert (self.disk.first, self.disk.next) == (self.first, len(self.records))
        held = self.ram.n_bytes if self.first < len(self.records) else 0
        assert held <= self.disk.n_bytes <= self.max_bytes
        assert self.disk.n_bytes == sum(file.stat().st_size for file in segments(self.folder))

    def teardown(self) -> None:
        self.disk.close()
        shutil.rmtree(self.folder)


TEMPORARY: list[Path] = []


@pytest.mark.parametrize("examples", [60, pytest.param(3000, marks=pytest.mark.stress)])
def test_disk_ram_and_a_list_agree(examples: int, tmp_path: Path) -> None:
    TEMPORARY.append(tmp_path)
    try:
        run_state_machine_as_test(
            LogMachine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        TEMPORARY.pop()
