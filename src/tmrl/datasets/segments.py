"""Segments: the rows of a saved memory, with the links that say which of them follow which.

    <first id>-<token>.rows.npy     rows, structured as the schema says
    <first id>-<token>.links.npy    their checksums, links and origins

`tmrl.memory.snapshot` writes them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tmrl.datasets.files import read_array
from tmrl.errors import DatasetError

KIND = "snapshot"
LINK = np.dtype([("check", np.uint64), ("back", np.int32), ("origin", np.int32)])


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
        put: Called with the first id, rows, links and origins of each segment.

    Raises:
        DatasetError: A file is missing, damaged, or holds other rows.
    """
    oldest = body["oldest"]
    segments = list(map(segment_of, body["segments"]))
    stops = [segment.stop for segment in segments]
    if any(segment.first != stop for segment, stop in zip(segments[1:], stops, strict=False)):
        raise DatasetError(f"{folder} is incomplete: its segments do not follow each other")
    for segment in segments:
        n = segment.stop - segment.first
        rows = read_array(folder, f"{segment.name}.rows.npy", row_dtype, n, segment.rows_crc)
        links = read_array(folder, f"{segment.name}.links.npy", LINK, n, segment.links_crc)
        skipped = max(0, oldest - segment.first)
        put(segment.first + skipped, rows[skipped:], links["back"][skipped:], links["origin"][skipped:])


def memory_in(document: dict[str, Any]) -> dict[str, Any]:
    """The memory's part of a manifest, which may be all of it.

    Raises:
        DatasetError: It is no such part.
    """
    memory: Any = document.get("memory", document)
    if not isinstance(memory, dict):
        raise DatasetError(f"the memory of a manifest must be a JSON object, got {memory!r}")
    return memory  # pyright: ignore[reportUnknownVariableType]


def segment_of(fields: dict[str, Any]) -> Segment:
    """A segment, as a manifest has it."""
    return Segment(**fields)
