"""RowFile: the rows of a memory and their links in two `.npy` files of fixed size, mapped into memory.

    <token>.rows.npy     rows, structured as the schema says
    <token>.links.npy    beside each row: its id, its place in its stream, its link, a checksum over all of it

Each ring of the memory is a stretch of both, see `stored_ring.py`. A manifest says how long each is: that of
all sources which have none of their own comes first, then those of kept sources, in the order of `kept`.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from tmrl.datasets.stored_ring import LINK, StoredRing
from tmrl.errors import DatasetError, StorageError

KIND = "memory"
"""Of manifests of a memory that lives in its folder."""


@dataclass(frozen=True, slots=True)
class RowFileInfo:
    """What a manifest says of the two files."""

    name: str
    sizes: Mapping[str, int]
    """Kept source to the rows of its ring; `""`, which comes first, is that of all others."""
    rows_head: tuple[int, int]
    """Bytes before the first row, and their CRC32."""
    links_head: tuple[int, int]

    @property
    def n_rows(self) -> int:
        """Rows of all rings."""
        return sum(self.sizes.values())


class RowFile:
    """The two files, mapped.

    Args:
        folder: Where they are.
        info: What the manifest says of them.
        row_dtype: A schema's row dtype.
        mode: `r+` to write, `r` to read.

    Raises:
        DatasetError: A file is missing, of the wrong size, or begins with something else.

    Attributes:
        info: As given.
        rows: `(n_rows,)` the rows of all rings.
        links: `(n_rows,)` of `LINK`.
        rings: Kept source to its ring; `""` is that of all others.
    """

    def __init__(self, folder: Path, info: RowFileInfo, row_dtype: np.dtype[np.void], mode: Any) -> None:
        self.info = info
        self._files = [folder / f"{info.name}.rows.npy", folder / f"{info.name}.links.npy"]
        heads = (info.rows_head, info.links_head)
        dtypes: tuple[np.dtype[Any], ...] = (row_dtype, LINK)
        self._maps = [
            _map(file, dtype, info.n_rows, head, mode)
            for file, dtype, head in zip(self._files, dtypes, heads, strict=True)
        ]
        # Plain arrays: NumPy's class for mapped ones costs microseconds with each slice.
        self.rows = np.asarray(self._maps[0])
        self.links = np.asarray(self._maps[1])
        self.rings: dict[str, StoredRing] = {}
        start = 0
        for number, (source, n) in enumerate(info.sizes.items()):
            stretch = slice(start, start + n)
            late = folder / f"{info.name}{f'.{number}' if number else ''}.late.npy"
            self.rings[source] = StoredRing(self.rows[stretch], self.links[stretch], late)
            start += n

    @classmethod
    def create(cls, folder: Path, row_dtype: np.dtype[np.void], sizes: Mapping[str, int]) -> "RowFile":
        """Makes two files with room for these rings; all of the disk that they will ever take is taken now.

        Raises:
            StorageError: The disk has no room; nothing is left behind.
        """
        name, n_rows = secrets.token_hex(4), sum(sizes.values())
        made = [(folder / f"{name}.rows.npy", row_dtype), (folder / f"{name}.links.npy", LINK)]
        try:
            rows_head, links_head = (_reserve(file, dtype, n_rows) for file, dtype in made)
        except OSError as error:
            for file, _ in made:
                file.unlink(missing_ok=True)
            n_bytes = n_rows * sum(dtype.itemsize for _, dtype in made)
            raise StorageError(
                f"{folder} must have room for {n_bytes:,} bytes ({n_rows:,} rows of "
                f"{row_dtype.itemsize:,} bytes and their links), but: {error}; choose a smaller memory_size, "
                "or another storage_path"
            ) from error
        file = cls(folder, RowFileInfo(name, sizes, rows_head, links_head), row_dtype, "r+")
        file.links["id"] = -1
        return file

    def sync(self) -> None:
        """Puts what was written on the disk; returns when it is there. Other threads may go on meanwhile."""
        for file, mapped in zip(self._files, self._maps, strict=True):
            if os.name != "posix":
                mapped.flush()
            with file.open("r+b") as stream:
                # On POSIX this takes what was written through the mapping too, and lets other threads run.
                os.fsync(stream.fileno())

    def to_json(self) -> dict[str, Any]:
        """What a manifest is to say of the files; how long each kept ring is stands elsewhere in it."""
        info = self.info
        heads = {"rows_head": info.rows_head, "links_head": info.links_head}
        return {"name": info.name, "n_rows": info.n_rows, **heads}


def info_in(document: dict[str, Any]) -> RowFileInfo | None:
    """The files that the manifest of a memory names; None if it had no rows yet.

    Raises:
        DatasetError: It is no such manifest.
    """
    if document.get("ring") is None:
        return None
    try:
        files = document["ring"]
        kept = {source: int(ring["n_rows"]) for source, ring in document.get("kept", {}).items()}
        name, sizes = str(files["name"]), {"": int(files["n_rows"]) - sum(kept.values()), **kept}
        rows_head, links_head = (
            (int(files[key][0]), int(files[key][1])) for key in ("rows_head", "links_head")
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DatasetError(f"a manifest must say which files hold the rows, but: {error!r}") from error
    if Path(name).name != name or min(sizes.values()) < 1:
        raise DatasetError(f"a manifest must name files of its own folder, got {name!r} of {sizes} rows")
    return RowFileInfo(name, sizes, rows_head, links_head)


def _reserve(file: Path, dtype: np.dtype[Any], n_rows: int) -> tuple[int, int]:
    """Makes an `.npy` file of zeros whose place on the disk is taken.

    Returns:
        Size and checksum of what precedes the zeros.
    """
    np.lib.format.open_memmap(file, "w+", dtype, (n_rows,))
    with file.open("r+b") as stream:
        size = file.stat().st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
        elif shutil.disk_usage(file.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        head = stream.read(size - n_rows * dtype.itemsize)
    return len(head), crc32(head)


def _map(file: Path, dtype: np.dtype[Any], n_rows: int, head: tuple[int, int], mode: Any) -> Any:
    n_bytes, checksum = head
    size = n_bytes + n_rows * dtype.itemsize
    if not file.is_file():
        raise DatasetError(f"{file.parent} is incomplete: {file.name!r} is missing")
    if file.stat().st_size != size:
        raise DatasetError(f"{file} is damaged: it must have {size:,} bytes, found {file.stat().st_size:,}")
    with file.open("rb") as stream:
        if crc32(stream.read(n_bytes)) != checksum:
            raise DatasetError(f"{file} is damaged: what stands before the rows differs")
    return np.memmap(file, dtype, mode, offset=n_bytes, shape=(n_rows,))
