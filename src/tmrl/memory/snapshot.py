"""Snapshots: a memory's rows as immutable files, and a manifest that says which of them make the memory.

    manifest.json                   what the rows mean; where every stream, count and random number stands
    <first id>-<token>.rows.npy     rows, structured as the schema says
    <first id>-<token>.links.npy    their links and origins

A file is never written to again, and the manifest is replaced in one step. So a crash at any moment leaves
the snapshot that was there before; files that no manifest names are removed by the next save. Saving again
writes only the rows that are new: all segments but the last are of full size, and only the last is written
anew.

Nothing that is read is executed: JSON, and arrays without objects. Each file has a checksum in the manifest,
and the manifest has one of itself.
"""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import DatasetError
from tmrl.schema import Rows

VERSION = 1
MANIFEST = "manifest.json"
SEGMENTS_WHEN_FULL = 32
"""A full memory is this many segments: what is evicted but not yet removed is at most one of them, 3 %."""

MAX_MANIFEST_BYTES = 1 << 26
LINK = np.dtype([("back", np.int32), ("origin", np.int32)])

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
    folder: Path, body: dict[str, Any], ids: range, n_rows: int, copy_rows: CopyRows, known: int | None
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
    checksum = _replace_manifest(folder, body | {"version": VERSION, "segments": segments})
    _remove_others(folder, {segment["name"] for segment in segments})
    return checksum


def read_manifest(folder: Path) -> tuple[dict[str, Any], int]:
    """What a snapshot's manifest holds, and its checksum.

    Raises:
        DatasetError: There is none, or it is damaged, or of a newer version.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise DatasetError(f"{folder} must be a folder that memory.save made, but holds no {MANIFEST}")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise DatasetError(f"{file} is larger than any manifest; it is damaged")
    try:
        document = json.loads(file.read_bytes())
        body, checksum = document["body"], document["crc32"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{file} is damaged: {error}") from error
    if crc32(_canonical(body)) != checksum:
        raise DatasetError(f"{file} is damaged: its checksum differs")
    if body["version"] > VERSION:
        raise DatasetError(
            f"{file} is of version {body['version']}, this package reads up to {VERSION}; upgrade tmrl-memory"
        )
    return body, checksum


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
        rows = _read_array(folder, f"{segment.name}.rows.npy", row_dtype, segment, segment.rows_crc)
        links = _read_array(folder, f"{segment.name}.links.npy", LINK, segment, segment.links_crc)
        skipped = max(0, oldest - segment.first)
        put(segment.first + skipped, rows[skipped:], links["back"][skipped:], links["origin"][skipped:])


def _reusable(folder: Path, known: int | None, ids: range, full: int) -> list[Segment]:
    """Segments of the snapshot in the folder that need not be written again."""
    if not (folder / MANIFEST).exists():
        foreign = [file.name for file in folder.iterdir() if not _is_ours(file)]
        if foreign:
            raise DatasetError(
                f"{folder} must be empty or hold a snapshot, but holds {foreign[0]!r}; choose another folder"
            )
        return []
    body, checksum = read_manifest(folder)
    if checksum != known:
        return []
    held = [segment for segment in map(_segment, body["segments"]) if segment.stop > ids.start]
    whole = [segment for segment in held if segment.stop - segment.first == full]
    return whole if whole == held[: len(whole)] else []


def _segment(fields: dict[str, Any]) -> Segment:
    return Segment(**fields)


def _write_segment(folder: Path, ids: range, copy_rows: CopyRows) -> Segment:
    rows, back, origin = copy_rows(ids)
    links = np.empty(len(ids), LINK)
    links["back"], links["origin"] = back, origin
    name = f"{ids.start:016d}-{secrets.token_hex(4)}"
    rows_crc = _write_array(folder / f"{name}.rows.npy", rows)
    return Segment(name, ids.start, ids.stop, rows_crc, _write_array(folder / f"{name}.links.npy", links))


def _write_array(file: Path, array: NDArray[Any]) -> int:
    """Writes an array and returns the checksum of the whole file."""
    with file.open("xb") as stream:
        summing = _Summing(stream)
        np.lib.format.write_array(summing, array, allow_pickle=False)  # pyright: ignore[reportArgumentType]
        _sync(stream)
    return summing.checksum


class _Summing:
    """A file that sums what is written to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.checksum = 0

    def write(self, part: bytes) -> int:
        self.checksum = crc32(part, self.checksum)
        return self._stream.write(part)


def _read_array(
    folder: Path, name: str, dtype: np.dtype[Any], segment: Segment, checksum: int
) -> NDArray[Any]:
    file = folder / name
    if Path(name).name != name or not file.is_file():
        raise DatasetError(f"{folder} is incomplete: {name!r} is missing")
    # The sum first: what reads a damaged header may raise anything.
    if file.stat().st_size == 0 or crc32(np.memmap(file, np.uint8, "r").data) != checksum:
        raise DatasetError(f"{file} is damaged: its checksum differs")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DatasetError(f"{file} holds no plain array: {error}") from error
    if array.dtype != dtype or array.shape != (segment.stop - segment.first,):
        raise DatasetError(
            f"{file} must hold {segment.stop - segment.first} rows of {dtype}, "
            f"found {array.shape} of {array.dtype}"
        )
    return array


def _replace_manifest(folder: Path, body: dict[str, Any]) -> int:
    checksum = crc32(_canonical(body))
    document = json.dumps({"body": body, "crc32": checksum}).encode()
    temporary = folder / f"{MANIFEST}.{secrets.token_hex(4)}.tmp"
    with temporary.open("xb") as stream:
        stream.write(document)
        _sync(stream)
    temporary.replace(folder / MANIFEST)
    if os.name == "posix":  # the names too must survive a power cut
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    return checksum


def _remove_others(folder: Path, names: set[str]) -> None:
    """Removes what earlier saves left: files of our making that the manifest does not name."""
    for file in folder.iterdir():
        if _is_ours(file) and file.name.split(".")[0] not in names:
            file.unlink()


def _is_ours(file: Path) -> bool:
    return file.name.endswith((".rows.npy", ".links.npy", ".tmp"))


def _canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
