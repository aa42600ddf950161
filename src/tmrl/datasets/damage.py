"""Damage told to the row: which rows of a file are not the ones that were written."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.files import read_array, row_checks
from tmrl.errors import DatasetError
from tmrl.rows import Rows

BLOCK_BYTES = 1 << 24


def damage_of_segments(
    folder: Path,
    segments: Iterable[Mapping[str, Any]],
    row_dtype: np.dtype[np.void],
    link_dtype: np.dtype[np.void],
) -> Iterator[str]:
    """Reads every checksum of the segments of a memory.

    Args:
        folder: Where their files are.
        segments: As the manifest lists them.
        row_dtype: Of their rows.
        link_dtype: Of their links; its field `check` holds the checksums of rows.

    Yields:
        What is wrong, a sentence for each damaged file; nothing if all is well.
    """
    for segment in segments:
        name, first, n_rows = segment["name"], segment["first"], segment["stop"] - segment["first"]
        links = folder, f"{name}.links.npy", link_dtype, n_rows, segment["links_crc"]
        rows = folder, f"{name}.rows.npy", row_dtype, n_rows, segment["rows_crc"]
        yield from damage_of_rows(*rows, first, partial(_checks_in, *links))


def _checks_in(*links: Any) -> NDArray[np.uint64]:
    return read_array(*links)["check"]


def damage_of_rows(
    folder: Path,
    name: str,
    row_dtype: np.dtype[np.void],
    n_rows: int,
    checksum: int,
    first: int,
    read_checks: Callable[[], NDArray[np.uint64]],
) -> Iterator[str]:
    """Reads the checksum of a file of rows, and those of its rows.

    Args:
        folder: Where it is.
        name: The file's name.
        row_dtype: Of its rows.
        n_rows: How many it must hold.
        checksum: Of the whole file.
        first: Number of its first row, for the message.
        read_checks: Reads the `(n_rows,)` checksums that `row_checks` made, or raises a `DatasetError`.

    Yields:
        What is wrong, a sentence for each file; nothing if all is well.
    """
    checks = None
    try:
        checks = read_checks()
    except DatasetError as error:
        yield str(error)
    try:
        rows = read_array(folder, name, row_dtype, n_rows, checksum)
        trouble = None
    except DatasetError as error:
        rows, trouble = _salvaged(folder / name, row_dtype, n_rows), str(error)
    if rows is None or checks is None:
        if trouble is not None:
            yield trouble
        return
    bad = bad_rows(rows, checks)
    if len(bad):
        one = f"row {first + bad[0]}"
        several = f"{one} is the first of {len(bad)} bad rows"
        yield f"{folder / name} is damaged: {f'{one} is bad' if len(bad) == 1 else several}"
    elif trouble is not None:
        yield f"{trouble}, but every row is intact: the damage is in the file's header, or after its rows"


def bad_rows(rows: Rows, checks: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places of the rows that differ from their checksums, or are missing at the end; ascending."""
    step = max(1, BLOCK_BYTES // rows.dtype.itemsize)
    is_bad = np.ones(len(checks), np.bool_)
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        is_bad[part] = row_checks(rows[part]) != checks[part]
    return np.flatnonzero(is_bad)


def _salvaged(file: Path, row_dtype: np.dtype[np.void], n_rows: int) -> Rows | None:
    """The whole rows of a damaged file, found by where they must begin; None if there is no such file."""
    if not file.is_file():
        return None
    header = BytesIO()
    # NumPy gives the number of rows room to grow, so the header is as long for none.
    np.lib.format.write_array(header, np.empty(0, row_dtype), allow_pickle=False)
    offset = len(header.getvalue())
    n_whole = min(n_rows, (file.stat().st_size - offset) // row_dtype.itemsize)
    return np.memmap(file, row_dtype, "r", offset, (n_whole,)) if n_whole > 0 else np.empty(0, row_dtype)
