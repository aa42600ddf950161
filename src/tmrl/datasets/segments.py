"""Segments: the rows of a saved memory, with the links that say which of them follow which.

    <first id>-<token>.rows.npy     rows, structured as the schema says
    <first id>-<token>.links.npy    their checksums, links and origins

`tmrl.memory.snapshot` writes them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.files import read_array
from tmrl.errors import DatasetError
from tmrl.rows import COLUMNS, Rows

KIND = "snapshot"
LINK = np.dtype([("check", np.uint64), *COLUMNS.descr, ("spare", np.int32)])


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `first` to `stop` in two files."""

    name: str
    first: int
    stop: int
    rows_crc: int
    links_crc: int


def read_segments(
    folder: Path, body: dict[str, Any], row_dtype: np.dtype[np.void], put: Callable[..., None]
) -> None:
    """Reads the rows of a snapshot, oldest first, each segment checked before it is handed to `put`.

    Args:
        folder: Of the snapshot.
        body: Its manifest.
        row_dtype: What the rows must look like.
        put: Called with the first id, rows and columns of each segment.

    Raises:
        DatasetError: A file is missing, damaged, or holds other rows.
    """
    for segment in segments_of(folder, body):
        rows, links = read_rows(folder, segment, row_dtype), read_links(folder, segment)
        skipped = max(0, body["oldest"] - segment.first)
        put(segment.first + skipped, rows[skipped:], links[list(COLUMNS.names or ())][skipped:])


def segments_of(folder: Path, body: dict[str, Any]) -> list[Segment]:
    """The segments that a manifest names, oldest first.

    Raises:
        DatasetError: They do not follow each other.
    """
    segments = list(map(segment_of, body["segments"]))
    if any(segment.first != before.stop for before, segment in pairwise(segments)):
        raise DatasetError(f"{folder} is incomplete: its segments do not follow each other")
    return segments


def read_rows(folder: Path, segment: Segment, row_dtype: np.dtype[np.void]) -> Rows:
    """Maps and checks the rows of a segment; see `read_array`."""
    n_rows = segment.stop - segment.first
    return read_array(folder, f"{segment.name}.rows.npy", row_dtype, n_rows, segment.rows_crc)


def read_links(folder: Path, segment: Segment) -> NDArray[np.void]:
    """Maps and checks the links of a segment; see `read_array`."""
    n_rows = segment.stop - segment.first
    return read_array(folder, f"{segment.name}.links.npy", LINK, n_rows, segment.links_crc)


def memory_in(document: dict[str, Any]) -> dict[str, Any]:
    """The memory's part of a manifest, which may be all of it.

    Raises:
        DatasetError: It is no such part.
    """
    memory: Any = document.get("memory", document)
    if not isinstance(memory, dict):
        raise DatasetError(f"the memory of a manifest must be a JSON object, got {memory!r}")
    return memory  # pyright: ignore[reportUnknownVariableType]


def ring_in(body: dict[str, Any], source: str) -> dict[str, Any]:
    """What a memory's part of a manifest says of the ring of a kept source; `""` for that of all others."""
    return body.get("kept", {}).get(source, {}) if source else body


def rings_in(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a memory's part of a manifest says of each ring, by its kept source."""
    return {"": body, **body.get("kept", {})}


def with_rings(body: dict[str, Any], rings: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A memory's part of a manifest, with what `rings_in` and `ring_in` are to find in it."""
    kept = {source: ring for source, ring in rings.items() if source}
    return body | rings[""] | ({"kept": kept} if kept else {})


def segment_of(fields: dict[str, Any]) -> Segment:
    """A segment, as a manifest has it."""
    return Segment(**fields)
