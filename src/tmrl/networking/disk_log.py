"""DiskLog: a log in a folder.

    manifest.json              version, the log's token, its oldest number at that time, the owner's note
    <number of first>.records  a segment, see `record_file.py`; only the newest is appended to
    lock                       held while a process has the log open
    reserve                    room for a note on a full disk, see `reserve.py`

What is wrong at the end of the newest segment, with no whole record after it, is a record that was being
written: it is cut off. What is wrong anywhere else is damage: the records around it are read as ever, under
their own numbers, and to read it is an error.

The newest segment is removed only when its successor is on the disk. So a log that holds nothing still knows
which number comes next, and `kill -9` never makes it give a number twice. A power cut may: records that are
lost because they were not synced leave their numbers to others. Whoever tells a number to somebody else
before `sync` has to be ready for that.
"""

import json
import secrets
from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, final

from filelock import FileLock, Timeout

from tmrl.datasets.files import MANIFEST, read_manifest, replace_manifest, sync_folder
from tmrl.errors import DatasetError, StorageError
from tmrl.networking.record_file import NAME, RecordFile
from tmrl.networking.record_log import HEAD_BYTES, RecordLog
from tmrl.networking.reserve import FULL, RESERVE, Reserve

KIND = "log"
"""Of the manifest of a log."""
LOCK = "lock"
SEGMENTS_AT_LEAST = 8
"""In a full log, so that at most an eighth of it waits for the end of a segment to be given back."""


@final
class DiskLog(RecordLog):
    """A log in a folder, which one process has open at a time.

    After `append` a record survives `kill -9`, after `sync` a power cut. What was forgotten stays so after an
    orderly `close`; after a kill, forgotten records may be back. At most two segments are open. Opening reads
    all that is held, so that damage is known: about a second for a million records, or for a few GB.

    Args:
        folder: Made if need be; it must be empty, or hold a log.
        max_bytes: How much of the disk its records may take; see `RecordLog`.
        segment_bytes: Size of a file, but at most an eighth of `max_bytes`. Forgotten records are given back
            to the disk in whole files.
        reserve_bytes: Room to keep for a note on a full disk, besides: at most an eighth of `max_bytes`, but
            at least twice what the last note took.

    Raises:
        StorageError: The folder cannot be written, is open elsewhere, holds something else, or its manifest
            is damaged or of a newer version.

    Attributes:
        folder: As given.
        noted: What `note` was given last; empty before. Not to be changed.
        cut_bytes: How many bytes of records that were being written opening cut off.
        damaged: Numbers of records that opening found damaged or missing; `read` refuses them.
    """

    def __init__(
        self, folder: Path, max_bytes: int, segment_bytes: int = 1 << 24, reserve_bytes: int = 1 << 20
    ) -> None:
        super().__init__(max_bytes)
        if segment_bytes < 1:
            raise ValueError(f"segment_bytes must be at least 1, got {segment_bytes}")
        self.folder = folder
        self.noted = {}
        self.cut_bytes = 0
        self.damaged = ()
        self._segment_bytes = min(segment_bytes, max_bytes // SEGMENTS_AT_LEAST)
        self._reserve_bytes = min(reserve_bytes, max_bytes // SEGMENTS_AT_LEAST)
        self._token = secrets.randbits(64)
        self._first = 0
        self._segments: list[RecordFile] = []
        self._older_bytes = 0
        self._being_read: RecordFile | None = None
        self._failure: str | None = None
        self._syncing = Lock()
        self._sync_failure: OSError | None = None
        self._synced = 0
        self._named = -1
        self._note_bytes = 0
        self._lock = _acquire(folder)
        try:
            with _told(folder):
                self._reserve = Reserve(folder)
                self._open()
        except BaseException:
            self._release()
            raise

    def _open(self) -> None:
        numbers = _numbers_in(self.folder)
        if (self.folder / MANIFEST).exists():
            self._take(read_manifest(self.folder)[0])
            self._survey(numbers)
            return
        # A new log gets its first segment first: where there is a manifest, there is a segment.
        first = RecordFile(self.folder, 0, self._token)
        if numbers and (numbers != [0] or first.path.stat().st_size):
            raise StorageError(f"{self.folder} holds records, but no {MANIFEST}; put it back to read them")
        self._begin_segment(0)
        self.note({})

    def _take(self, body: dict[str, Any]) -> None:
        if body.get("kind") != KIND:
            raise StorageError(
                f"{self.folder} must hold a log, but holds a {body.get('kind')}; choose another folder"
            )
        self._token, self._first, self.noted = body["token"], body["first"], body["noted"]

    def _survey(self, numbers: list[int]) -> None:
        """Finds every record, cuts off one that was being written, and tells which are damaged."""
        if not numbers:
            raise StorageError(f"{self.folder} is incomplete: its segments are missing; put them back")
        damaged: list[range] = []
        for number, stop in zip(numbers, [*numbers[1:], None], strict=True):
            segment = RecordFile(self.folder, number, self._token)
            found, self.cut_bytes = segment.survey(stop)
            damaged += found
            self._segments.append(segment)
        newest = self._segments[-1]
        newest.open()
        if self.cut_bytes:
            newest.cut_back()
        self._first = max(self._first, numbers[0])
        if newest.next < self._first:  # lost with the power, but forgotten anyway
            self._begin_segment(self._first)
        held = (range(max(self._first, lost.start), lost.stop) for lost in damaged)
        self.damaged = tuple(filter(len, held))
        self._drop_segments()

    @property
    def first(self) -> int:
        """See `RecordLog`."""
        return self._first

    @property
    def next(self) -> int:
        """See `RecordLog`."""
        return self._segments[-1].next

    @property
    def n_bytes(self) -> int:
        """See `RecordLog`."""
        return self._older_bytes + self._segments[-1].size

    def has_room(self, n_bytes: int, before: int = 0) -> bool:
        """See `RecordLog`; a file of which nothing is held does not count, as `append` can begin another."""
        before = max(before, self._first)
        held = sum(segment.size for segment in self._segments if segment.next > before)
        return held + HEAD_BYTES + n_bytes <= self.max_bytes

    def append(self, parts: Sequence[bytes | memoryview]) -> int:
        """See `RecordLog`; a full disk is a `StorageError` too."""
        self._require_open()
        if self._failure is not None:
            raise StorageError(self._failure)
        n_bytes = sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)
        self._require_room(n_bytes)
        try:
            self._append(parts, n_bytes)
        except StorageError:
            if self._first < self.next or not self._segments[-1].size or self._failure is not None:
                raise
            # Nothing is held, but the newest file is still there, and the disk may be full of it.
            with _told(self.folder):
                self._begin_segment(self.next)
                self._drop_segments()
            self._append(parts, n_bytes)
        return self.next - 1

    def _append(self, parts: Sequence[bytes | memoryview], n_bytes: int) -> None:
        try:
            with _told(self.folder):
                self._make_way(HEAD_BYTES + n_bytes)
                self._segments[-1].append(parts, n_bytes)
        except BaseException:
            self._cut_back()
            raise

    def _make_way(self, size: int) -> None:
        """Begins a segment if the newest is full; one of which nothing is held is given back by that."""
        newest = self._segments[-1]
        if newest.size and newest.size + size > self._segment_bytes:
            self._begin_segment(newest.next)
            self._drop_segments()

    def _cut_back(self) -> None:
        """Takes a record off the file that was not written to its end."""
        try:
            self._segments[-1].cut_back()
        except OSError as error:
            self._failure = (
                f"{self.folder} ends in a part of a record that could not be cut off: {error}; "
                "close the log and open it again"
            )

    def _begin_segment(self, number: int) -> None:
        segment = RecordFile(self.folder, number, self._token)
        segment.open(is_new=True)
        self._segments.append(segment)
        for older in self._segments[-2:-1]:
            older.close()
        self._count_older()

    def _count_older(self) -> None:
        self._older_bytes = sum(segment.size for segment in self._segments[:-1])

    def read(self, start: int, max_bytes: int) -> list[bytes]:
        """See `RecordLog`."""
        self._require_open()
        self._require_known(start)
        records: list[bytes] = []
        while start < self.next:
            place = bisect_right(self._segments, start, key=lambda segment: segment.first) - 1
            segment = self._segments[place]
            stop = segment.stop_within(start, max_bytes, at_least=0 if records else 1)
            found = self._read_from(segment, start, stop)
            records += found
            if not records:
                raise StorageError(
                    f"{segment.path} is damaged: record {start} is not what was written; "
                    "forget it to go on after it"
                )
            if not found or start + len(found) < stop:
                break
            start = stop
            max_bytes -= sum(map(len, found)) + HEAD_BYTES * len(found)
        return records

    def _read_from(self, segment: RecordFile, start: int, stop: int) -> list[bytes]:
        if segment is not self._segments[-1] and segment is not self._being_read:
            if self._being_read is not None:
                self._being_read.close()
            self._being_read = segment
        with _told(self.folder):
            segment.open()
            return segment.read(start, stop)

    def sync(self) -> int:
        """See `RecordLog`.

        After a failure it only fails, as the system may have dropped what it could not write.
        """
        with self._syncing:
            self._require_open()
            stop = self.next
            try:
                if self._sync_failure is not None:
                    raise self._sync_failure
                for segment in list(self._segments):
                    if segment.next > self._synced:
                        self._sync_segment(segment)
                self._sync_names()
            except OSError as error:
                self._sync_failure = error
                raise StorageError(
                    f"{self.folder} could not be put on the disk: {error}; records from {self._synced} on "
                    "may not survive a power cut; check the disk, then open the log again"
                ) from error
            self._synced = stop
            return stop

    def _sync_segment(self, segment: RecordFile) -> None:
        try:
            segment.sync()
        except FileNotFoundError:
            if segment.next > self._first:  # else the owner has just forgotten it
                raise

    def _sync_names(self) -> None:
        """Puts the name of the newest segment on the disk, and with it all others."""
        newest = self._segments[-1].first
        if self._named < newest:
            sync_folder(self.folder)
            self._named = newest

    def _forget(self, before: int) -> None:
        self._require_open()
        self._first = before
        with _told(self.folder):
            self._drop_segments()

    def _drop_segments(self) -> None:
        """Removes the files of which nothing is held, but never the newest."""
        while len(self._segments) > 1 and self._segments[1].first <= self._first:
            self._sync_names()
            self._segments[0].close()
            self._segments[0].path.unlink(missing_ok=True)
            del self._segments[0]
        self._count_older()

    def note(self, document: dict[str, Any], forget: int = 0) -> None:
        """See `RecordLog`; on return it is on the disk, even if that is full."""
        super().note(document, forget)
        self._reserve.take(max(self._reserve_bytes, 2 * self._note_bytes))

    def _note(self, document: dict[str, Any], first: int) -> None:
        self._require_open()
        octets = json.dumps(document)
        copy: dict[str, Any] = json.loads(octets)
        body = {"kind": KIND, "token": self._token, "first": first, "noted": copy}
        with _told(self.folder):
            self._replace_manifest(body)
        self.noted, self._note_bytes = copy, len(octets)

    def _replace_manifest(self, body: dict[str, Any]) -> None:
        try:
            replace_manifest(self.folder, body)
        except OSError as error:
            if error.errno not in FULL or not self._reserve.give_up():
                raise
            replace_manifest(self.folder, body)

    def close(self) -> None:
        """Puts all of it on the disk, and lets others open the folder; closing twice is the same as once.

        Raises:
            StorageError: The disk failed. The folder is let go all the same.
        """
        if not self._lock.is_locked:
            return
        try:
            self.sync()
            self.note(self.noted)
        finally:
            self._release()

    def _release(self) -> None:
        with self._syncing:
            for segment in self._segments:
                segment.close()
            self._lock.release()

    def _require_open(self) -> None:
        if not self._lock.is_locked:
            raise StorageError(f"the log in {self.folder} is closed; open it again to go on")


def _acquire(folder: Path) -> FileLock:
    try:
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
            lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"{folder} is open already, in this process or another; close it there, or choose another folder"
        ) from error
    return lock


def _numbers_in(folder: Path) -> list[int]:
    """Numbers of the segments, oldest first; what unfinished notes left is removed.

    Raises:
        StorageError: Something else is there.
    """
    names = {file.name for file in folder.iterdir()}
    segments = set(filter(NAME.fullmatch, names))
    drafts = {name for name in names if name.startswith(f"{MANIFEST}.") and name.endswith(".tmp")}
    foreign = names - segments - drafts - {MANIFEST, LOCK, RESERVE}
    if foreign:
        raise StorageError(
            f"{folder} must be empty or hold a log, but holds {min(foreign)!r}; choose another folder"
        )
    for name in drafts:
        (folder / name).unlink()
    return sorted(int(name.partition(".")[0]) for name in segments)


@contextmanager
def _told(folder: Path) -> Generator[None]:
    """Tells what goes wrong with a folder by the error that owners of a log expect."""
    try:
        yield
    except (StorageError, Timeout):
        raise
    except DatasetError as error:
        raise StorageError(str(error)) from error
    except OSError as error:
        raise StorageError(f"{folder} must be a folder that can be written, but: {error}") from error
