"""Ring: the newest rows, in order of insertion, in memory that never grows.

Row ids count insertions and are never reused; the row with id `i` lives in slot `i % n_rows`. Beside each row
stand three int32 columns: `back`, the distance to the previous row of its episode, `place`, how many rows
of the episode came before (see `streams.py` for both), and `origin`, a code for who sent it. Rows and columns
are all the truth there is; every index is rebuilt from them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.rows import COLUMNS, Columns, Rows, put, record_dtype


class Ring:
    """Rows with their columns, in arrays of the caller's: in RAM, or mapped from files.

    Args:
        rows: `(n_rows,)` room for as many rows.
        columns: `(n_rows,)` room for what stands beside them, of a dtype that has the fields of `COLUMNS`.
    """

    def __init__(self, rows: Rows, columns: Columns) -> None:
        self.n_rows = len(rows)
        self.rows: Rows = rows
        self.back: NDArray[np.int32] = columns["back"]
        self.origin: NDArray[np.int32] = columns["origin"]
        self.place: NDArray[np.int32] = columns["place"]
        self._columns = columns[list(COLUMNS.names or ())]
        self.oldest = 0
        self.next = 0
        self.records: NDArray[np.void] = rows.view(record_dtype(rows.dtype))

    def __len__(self) -> int:
        return self.next - self.oldest

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows and their columns when full."""
        return self.rows.nbytes + self.n_rows * COLUMNS.itemsize

    def make_room(self, n: int) -> range:
        """Evicts the oldest rows so that `n` more fit, and returns the ids of those that were held."""
        first = self.oldest
        self.oldest = max(first, self.next + n - self.n_rows)
        return range(first, min(self.oldest, self.next))

    def write(self, rows: Rows, columns: Columns) -> None:
        """Copies in rows for which `make_room` was called; of more than `n_rows` only the newest are held."""
        skipped = max(0, len(rows) - self.n_rows)
        self.next += skipped
        slot = self.next % self.n_rows
        put(self.records, slot, rows.view(self.records.dtype)[skipped:])
        put(self._columns, slot, columns[skipped:])
        self.next += len(rows) - skipped

    def write_one(self, row: Rows, back: int, origin: int, place: int) -> None:
        """`write` for an array of one row, several times cheaper."""
        slot = self.next % self.n_rows
        self.records[slot : slot + 1] = row.view(self.records.dtype)
        self.back[slot] = back
        self.origin[slot] = origin
        self.place[slot] = place
        self.next += 1

    def restore(self, first_id: int, rows: Rows, columns: Columns) -> None:
        """Appends rows that were held under these ids before, the oldest first."""
        if not len(self):
            self.oldest = self.next = first_id
        slot = first_id % self.n_rows
        put(self.records, slot, rows.view(self.records.dtype))
        put(self._columns, slot, columns)
        self.next = first_id + len(rows)

    def copy_of(self, ids: range) -> tuple[Rows, Columns]:
        """Copies of rows that are held, and of what stands beside them."""
        slots = np.arange(ids.start, ids.stop) % self.n_rows
        return self.records.take(slots).view(self.rows.dtype), self._columns[slots].astype(COLUMNS)

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
