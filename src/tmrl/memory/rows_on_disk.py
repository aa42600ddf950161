"""Reads the rows of a memory that is on the disk, saved or living there, without writing anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tmrl.datasets import row_file, segments
from tmrl.datasets.row_file import RowFile, info_in
from tmrl.datasets.segments import read_segments, ring_in
from tmrl.errors import DatasetError


def read_rows(
    folder: Path, body: dict[str, Any], source: str, row_dtype: np.dtype[np.void], put: Callable[..., None]
) -> None:
    """Reads the rows of a ring, oldest first, and checks them before they are handed on.

    Args:
        folder: Where they are.
        body: The memory's part of the manifest.
        source: The kept source whose ring it is; `""` for that of all others.
        row_dtype: What the rows must look like.
        put: Called with the first id, rows and columns of each stretch.

    Raises:
        DatasetError: A file is missing, damaged, or holds other rows.
    """
    kind = body.get("kind")
    if kind == segments.KIND:
        read_segments(folder, ring_in(body, source), row_dtype, put)
    elif kind == row_file.KIND:
        info = info_in(body)
        if info is not None:
            RowFile(folder, info, row_dtype, "r").rings[source].read(put)
    else:
        raise DatasetError(f"{folder} must hold a memory, but holds a {kind}")
