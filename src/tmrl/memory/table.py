"""Table: all rows of a memory, in RAM or mapped from files, cut into the rings of its sources.

Most memories have one ring, that of all sources, which is called `""`. A source that is kept, see `rings.py`,
has one of its own behind it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tmrl.datasets.row_file import RowFile
from tmrl.datasets.stored_ring import StoredRing
from tmrl.memory.ring import Ring
from tmrl.memory.storage import Storage
from tmrl.rows import COLUMNS, Columns, Rows


class Room(NamedTuple):
    """Where the rows of a source are."""

    number: int
    """Of its ring in the table."""
    ring: Ring
    stored: StoredRing | None
    """The same rows with all that is written of them; None in RAM."""


class Table:
    """Room for rows, a stretch of it for each ring.

    Args:
        sizes: Source to the rows of its ring; `""` is the first.
        rows: Room for the rows of all rings.
        columns: Room for what stands beside them.
        file: Where they are mapped from; None in RAM.

    Attributes:
        whole: All rows by their slots, for a gather.
        file: As given.
        sizes: `(n_rings,)` rows of each ring.
        starts: `(n_rings,)` where in the table each ring begins.
        rooms: Source to its ring.
    """

    def __init__(
        self, sizes: Mapping[str, int], rows: Rows, columns: Columns, file: RowFile | None = None
    ) -> None:
        self.whole = Ring(rows, columns)
        self.file = file
        self.sizes = np.array(list(sizes.values()))
        self.starts = np.cumsum(self.sizes) - self.sizes
        stored = {} if file is None else file.rings
        self.rooms = {
            source: Room(
                number, Ring(rows[start : start + n], columns[start : start + n]), stored.get(source)
            )
            for number, (source, n, start) in enumerate(
                zip(sizes, self.sizes.tolist(), self.starts.tolist(), strict=True)
            )
        }

    @classmethod
    def in_files(cls, file: RowFile) -> "Table":
        """The table that two files hold."""
        return cls(file.info.sizes, file.rows, file.links, file)


def make_table(row_dtype: np.dtype[np.void], sizes: Mapping[str, int], storage: Storage | None) -> Table:
    """A table without rows: in RAM, allocated at once and backed by memory as it fills, or in new files.

    Raises:
        StorageError: The disk has no room.
    """
    if storage is not None:
        return Table.in_files(storage.create_rows(row_dtype, sizes))
    n_rows = sum(sizes.values())
    return Table(sizes, np.zeros(n_rows, row_dtype), np.zeros(n_rows, COLUMNS))
