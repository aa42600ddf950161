"""Snapshots: a memory's rows as immutable files, and a manifest that says which of them make the memory.

    manifest.json                   what the rows mean; where every stream, count and random number stands
    <first id>-<token>.rows.npy     rows, structured as the schema says
    <first id>-<token>.links.npy    their checksums, links and origins

Saving again writes only the rows that are new: all segments but the last are of full size, and only the last
is written anew. `tmrl.datasets.files` says what makes this safe.
"""

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.files import (
    MANIFEST,
    read_array,
    read_manifest,
    remove_others,
    replace_manifest,
    require_ours,
    row_checks,
    write_array,
)
from tmrl.errors import DatasetError
from tmrl.rows import Rows

KIND = "snapshot"
SEGMENTS_WHEN_FULL = 32
"""A full memory is this many segments: what is evicted but not yet removed is at most one of them, 3 %."""

LINK = np.dtype([("check", np.uint64), ("back", np.int32), ("origin", np.int32)])

CopyRows = Callable[[range], tuple[Rows, NDArray[np.int32], NDArray[np.int32]]]
"""Copies rows by their ids; raises `EvictedRowError` if they are not held any more."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `first` to `stop` in two files."""

    name: str
    first: int
    stop: int
    rows_crc: int
    links_crc: int


def segment_rows(n_rows: int) -> int:
    """Rows of a full segment of a memory of `n_rows`."""
    return -(-n_rows // SEGMENTS_WHEN_FULL)


def write_snapshot(
    folder: Path,
    body: dict[str, Any],
    ids: range,
    n_rows: int,
    copy_rows: CopyRows,
    known: int | None,
    within: dict[str, Any] | None = None,
) -> int:
    """Writes a snapshot, or brings the one in `folder` up to date.

    Args:
        folder: Made if need be.
        body: What the manifest is to hold beside the segments.
        ids: The rows.
        n_rows: Rows of the memory when full.
        copy_rows: Where they come from, oldest first.
        known: Checksum of the manifest that this memory wrote or read last. Only if it is the one in the
            folder are its segments used again: somebody else's may have the same ids.
        within: A larger document that is to hold the memory, under `memory`; None if there is none. What
            its `files` begin with is kept in the folder beside the segments.

    Returns:
        The checksum of the new manifest.

    Raises:
        DatasetError: The folder holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    full = segment_rows(n_rows)
    kept = _reusable(folder, known, ids, full)
    first = kept[-1].stop if kept else ids.start
    new = [
        _write_segment(folder, range(start, min(start + full, ids.stop)), copy_rows)
        for start in range(first, ids.stop, full)
    ]
    segments = [asdict(segment) for segment in [*kept, *new]]
    body = body | {"kind": KIND, "segments": segments}
    checksum = replace_manifest(folder, body if within is None else within | {"memory": body})
    remove_others(folder, {*(segment["name"] for segment in segments), *(within or {}).get("files", ())})
    return checksum


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
    segments = list(map(_segment, body["segments"]))
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
    """The memory's part of a manifest, which may be all of it."""
    return document.get("memory", document)


def _reusable(folder: Path, known: int | None, ids: range, full: int) -> list[Segment]:
    """Segments of the snapshot in the folder that need not be written again."""
    if not (folder / MANIFEST).exists():
        require_ours(folder)
        return []
    body, checksum = read_manifest(folder)
    if checksum != known:
        return []
    segments = memory_in(body)["segments"]
    held = [segment for segment in map(_segment, segments) if segment.stop > ids.start]
    whole = [segment for segment in held if segment.stop - segment.first == full]
    return whole if whole == held[: len(whole)] else []


def _segment(fields: dict[str, Any]) -> Segment:
    return Segment(**fields)


def _write_segment(folder: Path, ids: range, copy_rows: CopyRows) -> Segment:
    rows, back, origin = copy_rows(ids)
    links = np.empty(len(ids), LINK)
    links["check"], links["back"], links["origin"] = row_checks(rows), back, origin
    name = f"{ids.start:016d}-{secrets.token_hex(4)}"
    rows_crc = write_array(folder / f"{name}.rows.npy", rows)
    return Segment(name, ids.start, ids.stop, rows_crc, write_array(folder / f"{name}.links.npy", links))
