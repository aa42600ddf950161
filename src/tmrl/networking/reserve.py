"""Reserve: room on a disk that is kept for the moment at which the disk is full.

Who gives room back has to write down first that it does, and a full disk takes nothing. So a file that holds
nothing is kept beside, which is given up when that happens and taken again when there is room.
"""

import errno
import os
from pathlib import Path

from tmrl.errors import StorageError

RESERVE = "reserve"
"""Name of the file."""
FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Errors of a full disk, and of one's share of it."""


def is_of_full_disk(error: StorageError) -> bool:
    """Whether what failed did so for want of room on the disk."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL


class Reserve:
    """A file that holds room.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / RESERVE
        self._held = self._file.stat().st_size if self._file.exists() else 0

    def take(self, n_bytes: int) -> None:
        """Takes so much, if it has less and the disk has it; no matter if not."""
        if self._held >= n_bytes:
            return
        try:
            with self._file.open("ab") as stream:
                try:
                    _allocate(stream.fileno(), self._held, n_bytes)
                except OSError:
                    stream.truncate(self._held)
                    raise
        except OSError:
            return
        self._held = n_bytes

    def give_up(self) -> bool:
        """Gives all of it back; returns whether there was any."""
        had, self._held = self._held, 0
        self._file.unlink(missing_ok=True)
        return had > 0


def _allocate(descriptor: int, start: int, stop: int) -> None:
    """Lets a file take room up to `stop` that it has up to `start`."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, stop - start)
        return
    zeros = memoryview(bytes(stop - start))
    while zeros:
        zeros = zeros[os.write(descriptor, zeros) :]
