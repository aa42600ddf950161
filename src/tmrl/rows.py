"""Arrays of rows: copied whole, written round a ring, and linked to each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.void]
"""One-dimensional array of a schema's row dtype."""

COLUMNS = np.dtype([("back", np.int32), ("origin", np.int32), ("place", np.int32)])
"""What stands beside each row: the distance to the previous row of its episode, a code for who sent it, and
how many rows of its episode came before it."""

Columns = NDArray[np.void]
"""One-dimensional array of `COLUMNS`, or of a dtype that has these fields."""

START = 0
"""The link of a row that begins an episode."""
GAP = -1
"""The link of a row whose predecessor was lost, or is not known."""

NOBODY = -1
"""The origin of a place within a ring that holds no row."""


def record_dtype(row_dtype: np.dtype[np.void]) -> np.dtype[np.void]:
    """Rows as opaque records, which NumPy copies whole, padding included, instead of field by field."""
    return np.dtype((np.void, row_dtype.itemsize))


def take_rows(rows: Rows, places: NDArray[Any]) -> Rows:
    """Copies rows from places, `(n,)` integers or `(len(rows),)` bools, with every byte of each."""
    return rows.view(record_dtype(rows.dtype))[places].view(rows.dtype)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Copies arrays of rows of one dtype, at least one, behind each other, with every byte of each."""
    row_dtype = parts[0].dtype
    return np.concatenate([part.view(record_dtype(row_dtype)) for part in parts]).view(row_dtype)


def put(column: NDArray[Any], slot: int, values: NDArray[Any]) -> None:
    """Writes values from `slot` on, going on at the start where the column ends."""
    fits = len(column) - slot
    column[slot : slot + len(values)] = values[:fits]
    if len(values) > fits:
        column[: len(values) - fits] = values[fits:]
