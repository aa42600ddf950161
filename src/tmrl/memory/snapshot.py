"""Snapshots: a memory's rows as immutable files, and a manifest that says which of them make the memory.

    manifest.json                   what the rows mean; where every stream, count and random number stands
    <first id>-<token>.rows.npy     rows, structured as the schema says
    <first id>-<token>.links.npy    their checksums, links and origins
    <token>.priorities.npy          priorities of all the rows, if the sampler has any

Saving again writes only the rows that are new: all segments but the last are of full size, and only the last
is written anew. `tmrl.datasets.files` says what makes this safe.
"""

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.files import (
    MANIFEST,
    read_manifest,
    remove_others,
    replace_manifest,
    require_ours,
    row_checks,
    write_array,
)
from tmrl.datasets.priorities import new_name, write_priorities
from tmrl.datasets.segments import KIND, LINK, Segment, memory_in, ring_in, segment_of, with_rings
from tmrl.rows import COLUMNS, Columns, Rows

SEGMENTS_WHEN_FULL = 32
"""A full memory is this many segments: what is evicted but not yet removed is at most one of them, 3 %."""

CopyRows = Callable[[range], tuple[Rows, Columns]]
"""Copies rows by their ids; raises `EvictedRowError` if they are not held any more."""


def segment_rows(n_rows: int) -> int:
    """Rows of a full segment of a memory of `n_rows`."""
    return -(-n_rows // SEGMENTS_WHEN_FULL)


@dataclass(frozen=True, slots=True)
class RingToSave:
    """What a snapshot is to hold of one ring."""

    ids: range
    """The rows."""
    n_rows: int
    """How many there are when it is full."""
    copy_rows: CopyRows
    """Where they come from, oldest first."""
    late: NDArray[np.int64]
    """Ids of rows that were changed since the last snapshot: their segments are written anew."""
    priorities: tuple[str, NDArray[np.float64]] | None
    """The kind of the sampler, and its number for each of the rows; None if it has none."""


NOTHING = RingToSave(
    range(0), 1, lambda _: (np.empty(0, COLUMNS), np.empty(0, COLUMNS)), np.empty(0, np.int64), None
)
"""Of a memory that knows no layout yet."""


def write_snapshot(
    folder: Path,
    body: dict[str, Any],
    rings: Mapping[str, RingToSave],
    known: int | None,
    within: dict[str, Any] | None = None,
) -> int:
    """Writes a snapshot, or brings the one in `folder` up to date.

    Args:
        folder: Made if need be.
        body: What the manifest is to hold beside the segments.
        rings: The kept source of each ring to what is to be saved of it; `""` for the one of all others.
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
    saved = _saved(folder, known)
    names = set((within or {}).get("files", ()))
    written: dict[str, dict[str, Any]] = {}
    for source, ring in rings.items():
        written[source] = _write_ring(folder, ring, ring_in(saved, source).get("segments", ()), names)
    body = with_rings(body | {"kind": KIND}, written)
    checksum = replace_manifest(folder, body if within is None else within | {"memory": body})
    remove_others(folder, names)
    return checksum


def _write_ring(folder: Path, ring: RingToSave, saved: Collection[Any], names: set[str]) -> dict[str, Any]:
    """Writes what is new of one ring.

    Args:
        folder: Where.
        ring: What there is.
        saved: Its segments in the folder.
        names: Takes the names of files that stay.

    Returns:
        What the manifest is to say of the ring.
    """
    ids, full = ring.ids, segment_rows(ring.n_rows)
    kept = [
        segment
        if _is_as_saved(segment, ring.late)
        else _write_segment(folder, _held(segment, ids), ring.copy_rows)
        for segment in _reusable(saved, ids, full)
    ]
    first = kept[-1].stop if kept else ids.start
    new = [
        _write_segment(folder, range(start, min(start + full, ids.stop)), ring.copy_rows)
        for start in range(first, ids.stop, full)
    ]
    segments = [asdict(segment) for segment in [*kept, *new]]
    names.update(segment["name"] for segment in segments)
    body: dict[str, Any] = {"oldest": ids.start, "n_rows": ring.n_rows, "segments": segments}
    if ring.priorities is not None:
        kind, priorities = ring.priorities
        body["priorities"] = write_priorities(folder, new_name(), kind, ids.start, priorities)
        names.add(body["priorities"]["name"])
    return body


def _saved(folder: Path, known: int | None) -> dict[str, Any]:
    """The memory's part of the manifest in the folder, if it is the known one; otherwise nothing."""
    if not (folder / MANIFEST).exists():
        require_ours(folder)
        return {}
    body, checksum = read_manifest(folder)
    return memory_in(body) if checksum == known else {}


def _reusable(segments: Collection[Any], ids: range, full: int) -> list[Segment]:
    """Segments that stay, all but a last one that is not full."""
    held = [segment for segment in map(segment_of, segments) if segment.stop > ids.start]
    sizes = [segment.stop - segment.first for segment in held]
    if any(size > full for size in sizes):  # of a larger memory
        return []
    return held if sizes and sizes[-1] == full else held[:-1]


def _held(segment: Segment, ids: range) -> range:
    return range(max(segment.first, ids.start), segment.stop)


def _is_as_saved(segment: Segment, late: NDArray[np.int64]) -> bool:
    first, stop = np.searchsorted(late, (segment.first, segment.stop))
    return bool(first == stop)


def _write_segment(folder: Path, ids: range, copy_rows: CopyRows) -> Segment:
    rows, columns = copy_rows(ids)
    links = np.zeros(len(ids), LINK)
    links["check"] = row_checks(rows)
    for column in COLUMNS.names or ():
        links[column] = columns[column]
    name = f"{ids.start:016d}-{secrets.token_hex(4)}"
    rows_crc = write_array(folder / f"{name}.rows.npy", rows)
    return Segment(name, ids.start, ids.stop, rows_crc, write_array(folder / f"{name}.links.npy", links))
