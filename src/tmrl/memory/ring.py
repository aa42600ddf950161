"""Ring: the newest rows, in order of insertion, in memory that never grows.

Row ids count insertions and are never reused; the row with id `i` lives in slot `i % n_rows`. Beside each row
stand two int32 columns: `back`, the distance to the previous row of its episode (see `streams.py`), and
`origin`, a code for who sent it. These three are all the truth there is; every index is rebuilt from them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.rows import Rows, put, record_dtype

COLUMN_BYTES = 8
"""Bytes of the two columns beside a row in RAM."""


class Ring:
    """Rows with their two columns, in arrays of the caller's: in RAM, or mapped from files.

    Args:
        rows: `(n_rows,)` room for as many rows.
        back: `(n_rows,)` room for their links.
        origin: `(n_rows,)` room for their origins.
    """

    def __init__(self, rows: Rows, back: NDArray[np.int32], origin: NDArray[np.int32]) -> None:
        self.n_rows = len(rows)
        self.rows: Rows = rows
        self.back = back
        self.origin = origin
        self.oldest = 0
        self.next = 0
        self.records: NDArray[np.void] = rows.view(record_dtype(rows.dtype))

    @classmethod
    def in_ram(cls, row_dtype: np.dtype[np.void], n_rows: int) -> "Ring":
        """A ring of its own arrays, allocated at once and backed by memory as they fill."""
        return cls(np.zeros(n_rows, row_dtype), np.zeros(n_rows, np.int32), np.zeros(n_rows, np.int32))

    def __len__(self) -> int:
        return self.next - self.oldest

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows and their columns when full."""
        return self.rows.nbytes + self.back.nbytes + self.origin.nbytes

    def make_room(self, n: int) -> range:
        """Evicts the oldest rows so that `n` more fit, and returns the ids of those that were held."""
        first = self.oldest
        self.oldest = max(first, self.next + n - self.n_rows)
        return range(first, min(self.oldest, self.next))

    def write(self, rows: Rows, back: NDArray[np.int32], origin: int) -> None:
        """Copies in rows for which `make_room` was called; of more than `n_rows` only the newest are held."""
        skipped = max(0, len(rows) - self.n_rows)
        self.next += skipped
        slot = self.next % self.n_rows
        records = rows.view(self.records.dtype)[skipped:]
        put(self.records, slot, records)
        put(self.back, slot, back[skipped:])
        put(self.origin, slot, np.broadcast_to(np.int32(origin), len(records)))
        self.next += len(records)

    def write_one(self, row: Rows, back: int, origin: int) -> None:
        """`write` for an array of one row, several times cheaper."""
        slot = self.next % self.n_rows
        self.records[slot : slot + 1] = row.view(self.records.dtype)
        self.back[slot] = back
        self.origin[slot] = origin
        self.next += 1

    def restore(self, first_id: int, rows: Rows, back: NDArray[np.int32], origin: NDArray[np.int32]) -> None:
        """Appends rows that were held under these ids before, the oldest first."""
        if not len(self):
            self.oldest = self.next = first_id
        slot = first_id % self.n_rows
        put(self.records, slot, rows.view(self.records.dtype))
        put(self.back, slot, back)
        put(self.origin, slot, origin)
        self.next = first_id + len(rows)

    def copy_of(self, ids: range) -> tuple[Rows, NDArray[np.int32], NDArray[np.int32]]:
        """Copies of rows that are held, with their links and origins."""
        slots = np.arange(ids.start, ids.stop) % self.n_rows
        records = self.records.take(slots)
        return records.view(self.rows.dtype), self.back[slots], self.origin[slots]

    def gather(self, slots: NDArray[Any], out: NDArray[np.void]) -> None:
        """Copies the rows in `slots` into `out`.

        Args:
            slots: `(n,)` integers in `[0, n_rows)`; repeats are allowed.
            out: `(n,)` opaque records of the row's size, see `record_dtype`.
        """
        # mode="clip" lets NumPy write into `out` directly; the default mode takes a detour (3x slower).
        self.records.take(slots, out=out, mode="clip")

    def held_slots(self) -> NDArray[np.int64]:
        """Slots of the rows held, oldest first."""
        return np.arange(self.oldest, self.next) % self.n_rows
