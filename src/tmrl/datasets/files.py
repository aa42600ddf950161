"""Files of rows: arrays with checksums, and the manifest that says which of them count.

What is written is `.npy` arrays and one JSON manifest a folder. An array is never written to again once a
manifest names it, and the manifest is replaced in one step. So a crash at any moment leaves what was there
before; files that no manifest names are removed by whoever writes the next one.

Nothing that is read is executed: JSON, and arrays without objects. Each file has a checksum in the manifest,
and the manifest has one of itself. Each row has one too, so that damage can be told to the row.
"""

import json
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from tmrl.errors import DatasetError
from tmrl.rows import Rows

VERSION = 1
"""Of the manifests written here; those of a greater one are refused."""
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 28

_SUFFIXES = (
    *(".rows.npy", ".links.npy", ".late.npy", ".checks.npy", ".priorities.npy", ".state.safetensors"),
    ".tmp",
)


def row_checks(rows: Rows, n_bytes: int | None = None) -> NDArray[np.uint64]:
    """Checksums of single rows, `(n,)`, so that damage can be told row by row: XXH3 of 64 bits.

    0.06 us a row of 100 bytes; CRC32 takes 0.19 us, and fifteen times as long for images.

    Args:
        rows: Records.
        n_bytes: How many of the bytes of each count; None for all.
    """
    octets: NDArray[Any] = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
    if n_bytes is not None:
        octets = octets[:, :n_bytes]
    return np.fromiter(map(xxh3_64_intdigest, octets), np.uint64, len(rows))


def write_array(file: Path, array: NDArray[Any]) -> int:
    """Writes an array to a new file, down to the disk, and returns the checksum of the whole file."""
    with file.open("xb") as stream:
        summing = _Summing(stream)
        np.lib.format.write_array(summing, array, allow_pickle=False)  # pyright: ignore[reportArgumentType]
        sync(stream)
    return summing.checksum


class _Summing:
    """A file that sums what is written to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.checksum = 0

    def write(self, part: bytes) -> int:
        self.checksum = crc32(part, self.checksum)
        return self._stream.write(part)


def read_array(folder: Path, name: str, dtype: np.dtype[Any], n_rows: int, checksum: int) -> NDArray[Any]:
    """Maps an array that `write_array` wrote, read-only, and checks it.

    Args:
        folder: Where it is; nothing outside of it is opened.
        name: The file's name, as a manifest gives it.
        dtype: What it must hold.
        n_rows: How many of them.
        checksum: As `write_array` returned it.

    Raises:
        DatasetError: The file is missing, damaged, or holds something else.
    """
    # The sum first: what reads a damaged header may raise anything.
    file = checked_file(folder, name, checksum)
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DatasetError(f"{file} holds no plain array: {error}") from error
    if array.dtype != dtype or array.shape != (n_rows,):
        raise DatasetError(f"{file} must hold {n_rows} rows of {dtype}, found {array.shape} of {array.dtype}")
    return array


def checked_file(folder: Path, name: str, checksum: int) -> Path:
    """The path of a file that a manifest names, its contents checked; nothing outside of `folder` is opened.

    Raises:
        DatasetError: The file is missing or damaged.
    """
    file = folder / name
    if Path(name).name != name or not file.is_file():
        raise DatasetError(f"{folder} is incomplete: {name!r} is missing")
    if file.stat().st_size == 0 or checksum_of(file) != checksum:
        raise DatasetError(f"{file} is damaged: its checksum differs")
    return file


def checksum_of(file: Path) -> int:
    """The checksum of a whole file that is not empty."""
    return crc32(np.memmap(file, np.uint8, "r").data)


def read_manifest(folder: Path) -> tuple[dict[str, Any], int]:
    """What the manifest of a folder holds, and its checksum.

    Raises:
        DatasetError: There is none, or it is damaged, or of a newer version.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise DatasetError(f"{folder} must be a folder that this package wrote, but holds no {MANIFEST}")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise DatasetError(f"{file} is larger than any manifest; it is damaged")
    try:
        document = json.loads(file.read_bytes())
        body, checksum = document["body"], document["crc32"]
        version = body["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{file} is damaged: {error}") from error
    if crc32(_canonical(body)) != checksum:
        raise DatasetError(f"{file} is damaged: its checksum differs")
    if version > VERSION:
        raise DatasetError(
            f"{file} is of version {version}, this package reads up to {VERSION}; upgrade tmrl-memory"
        )
    return body, checksum


def replace_manifest(folder: Path, body: dict[str, Any]) -> int:
    """Writes a manifest in place of the one in the folder, in one step, and returns its checksum."""
    body = {"version": VERSION} | body
    checksum = crc32(_canonical(body))
    document = json.dumps({"body": body, "crc32": checksum}).encode()
    replace_file(folder / MANIFEST, folder / f"{MANIFEST}.{secrets.token_hex(4)}.tmp", document)
    sync_folder(folder)
    return checksum


def require_ours(folder: Path, besides: Collection[str] = ()) -> None:
    """Checks that a folder that has no manifest holds nothing but what an unfinished write left.

    Args:
        folder: The folder.
        besides: Names that may be there too.

    Raises:
        DatasetError: It holds something else.
    """
    foreign = [file.name for file in folder.iterdir() if not _is_ours(file) and file.name not in besides]
    if foreign:
        raise DatasetError(
            f"{folder} must be empty or written by this package, but holds {foreign[0]!r}; "
            "choose another folder"
        )


def remove_others(folder: Path, names: Collection[str]) -> None:
    """Removes what earlier writes left: files of our making whose names do not begin with one of `names`."""
    for file in folder.iterdir():
        if _is_ours(file) and file.name.split(".")[0] not in names:
            file.unlink()


def _is_ours(file: Path) -> bool:
    return file.name.endswith(_SUFFIXES)


def _canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def replace_file(file: Path, draft: Path, content: bytes) -> None:
    """Writes a file in place of the one that is there, in one step, by way of a draft beside it."""
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            sync(stream)
        draft.replace(file)
    except OSError:
        draft.unlink(missing_ok=True)  # a full disk has no room for it
        raise


def sync(stream: BinaryIO) -> None:
    """Puts what was written to a file on the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk, where the system knows how."""
    if os.name != "posix":
        return
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
