"""RecordFile: numbered records in one file, which grows at its end.

A record is a head of 24 bytes, little-endian (mark, length of the payload, number, XXH3-64 of the payload),
and the payload. It goes to the system in one call, and survives the process from then on. There is no index
and no count on disk that could contradict the records: they are found by reading the file once.

The mark and the seed of the checksum come from the token of the log, which is random and stays in its folder.
So no payload, whoever sent it, can pass for a record, neither when the end of a damaged one is searched for,
nor in another log's folder. The number is part of the seed, so that no record passes for another.
"""

import os
import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from xxhash import xxh3_64, xxh3_64_intdigest

from tmrl.networking.record_log import HEAD_BYTES

NAME = re.compile(r"\d{20}\.records")
"""Of a file: the number of its first record."""
MAX_PARTS = 1000
"""That are written in one call without being joined; POSIX systems take 1024 with the head."""

_HEAD = struct.Struct("<4sIQQ")


class RecordFile:
    """Consecutive records of one file.

    Args:
        folder: Where it is.
        first: Number of its first record.
        token: Of the log, 64 bits.

    Attributes:
        path: Of the file.
        first: As given.
        ends: Where each record ends; the only word on which records are there.
    """

    def __init__(self, folder: Path, first: int, token: int) -> None:
        self.path = folder / f"{first:020}.records"
        self.first = first
        self.ends = array("Q")
        self._token = token
        self._mark = (token >> 32).to_bytes(4, "little")
        self._descriptor = -1

    @property
    def next(self) -> int:
        """Number after that of the newest record."""
        return self.first + len(self.ends)

    @property
    def size(self) -> int:
        """Bytes of all records."""
        return self.ends[-1] if self.ends else 0

    def _start_of(self, number: int) -> int:
        return self.ends[number - self.first - 1] if number > self.first else 0

    # The file

    def open(self, *, is_new: bool = False) -> None:
        """Opens the file if it is not open; a new one is made, in place of what is there."""
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self.path, flags | (os.O_CREAT | os.O_TRUNC if is_new else 0), 0o666)

    def close(self) -> None:
        """Closes the file if it is open."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def append(self, parts: Sequence[bytes | memoryview], n_bytes: int) -> None:
        """Writes the next record.

        Args:
            parts: Its payload.
            n_bytes: Length of all parts.

        Raises:
            OSError: The system did not take all of it; a part may be in the file. See `cut_back`.
        """
        checking = xxh3_64(seed=self._seed(self.next))
        for part in parts:
            checking.update(part)
        head = _HEAD.pack(self._mark, n_bytes, self.next, checking.intdigest())
        _write(self._descriptor, [head, *parts], HEAD_BYTES + n_bytes)
        self.ends.append(self.size + HEAD_BYTES + n_bytes)  # from here on the record is there

    def cut_back(self) -> None:
        """Takes off what is in the file after its newest record."""
        os.ftruncate(self._descriptor, self.size)

    def sync(self) -> None:
        """Puts the file on the disk. Any thread may do so: it is opened anew, as its owner may close it."""
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # Reading

    def stop_within(self, start: int, max_bytes: int, at_least: int) -> int:
        """The number after those, from `start` on, that take at most `max_bytes` with their heads."""
        place = start - self.first
        if place >= len(self.ends):
            return start
        limit = bisect_right(self.ends, self._start_of(start) + max(0, max_bytes), lo=place)
        return self.first + max(limit, place + at_least)

    def read(self, start: int, stop: int) -> list[bytes]:
        """Payloads of records up to `stop`, or up to one that is damaged; the file is open."""
        if start == stop:
            return []
        base = position = self._start_of(start)
        octets = _read(self._descriptor, base, self._start_of(stop) - base)
        records: list[bytes] = []
        for number in range(start, stop):
            end = self.ends[number - self.first]
            if self._end_of(octets, position - base, number) != end - base:
                break
            records.append(octets[position - base + HEAD_BYTES : end - base])
            position = end
        return records

    def survey(self, stop: int | None) -> tuple[list[range], int]:
        """Finds the records of a file that was there before.

        Args:
            stop: Number of the first record of the next file; None if there is none.

        Returns:
            The numbers of those that are damaged or missing, as far as others come after them; and how many
            bytes come after the newest whole one.
        """
        octets = self.path.read_bytes()
        damaged: list[range] = []
        while stop is None or self.next < stop:
            end = self._end_of(octets, self.size, self.next)
            if end is not None:
                self.ends.append(end)
                continue
            found = self._next_whole(octets)
            if found is None:
                break
            position, number = found
            damaged.append(range(self.next, number))
            self.ends.extend([position] * (number - self.next))
        if stop is not None and self.next < stop:
            damaged.append(range(self.next, stop))
        return damaged, len(octets) - self.size

    def _end_of(self, octets: bytes, position: int, number: int) -> int | None:
        """Where the record at a position ends; None if it is not whole, or not of that number."""
        start = position + HEAD_BYTES
        if start > len(octets):
            return None
        mark, n_bytes, found, checksum = _HEAD.unpack_from(octets, position)
        end = start + n_bytes
        if mark != self._mark or found != number or end > len(octets):
            return None
        payload = memoryview(octets)[start:end]
        return end if xxh3_64_intdigest(payload, self._seed(number)) == checksum else None

    def _next_whole(self, octets: bytes) -> tuple[int, int] | None:
        """Position and number of the next whole record after a damaged one, if there is any."""
        position = octets.find(self._mark, self.size + 1)
        while 0 <= position <= len(octets) - HEAD_BYTES:
            number: int = _HEAD.unpack_from(octets, position)[2]
            # Each record that is missing in between took at least a head.
            is_possible = 0 < number - self.next <= (position - self.size) // HEAD_BYTES
            if is_possible and self._end_of(octets, position, number) is not None:
                return position, number
            position = octets.find(self._mark, position + 1)
        return None

    def _seed(self, number: int) -> int:
        return (self._token + number) % (1 << 64)


def _write(descriptor: int, parts: Sequence[bytes | memoryview], n_bytes: int) -> None:
    """Writes parts that are `n_bytes` together, in one call unless the system takes less at once."""
    if hasattr(os, "writev") and len(parts) <= MAX_PARTS:
        written = os.writev(descriptor, parts)
    else:
        parts = [b"".join(parts)]
        written = os.write(descriptor, parts[0])
    if written < n_bytes:
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _read(descriptor: int, position: int, n_bytes: int) -> bytes:
    """Up to `n_bytes` of a file from a position on."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, n_bytes, position)
    os.lseek(descriptor, position, os.SEEK_SET)
    return os.read(descriptor, n_bytes)
