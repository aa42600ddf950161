"""Storage: the folder in which a memory lives, written by one process at a time.

    manifest.json          layout, where every stream and count stands, random numbers, names of files
    <token>.rows.npy       the rows, see `row_file.py`
    <token>.links.npy
    <token>.priorities.npy priorities of rows at the last flush, if the sampler has any
    lock                   held while a process writes

Rows are in the files as soon as they are appended. What the manifest adds to them may be older: on opening it
is brought up to date by the rows. For that, every stream and origin that a row names must be in the manifest
before the row is written, and every row that came after the manifest must still be there: so a manifest is
written before the first of those is overwritten, at least once in a lap of each ring.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from tmrl.datasets.files import MANIFEST, read_manifest, remove_others, replace_manifest, require_ours
from tmrl.datasets.priorities import new_name, write_priorities
from tmrl.datasets.row_file import KIND, RowFile, RowFileInfo
from tmrl.datasets.segments import rings_in, with_rings
from tmrl.errors import DatasetError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

LOCK = "lock"


class Storage:
    """A folder that this process writes, until `close`.

    Args:
        folder: Made if need be.

    Raises:
        StorageError: It cannot be written, or another process writes it.
        DatasetError: It holds something else, or a damaged manifest.

    Attributes:
        folder: As given.
        document: What the manifest held when the folder was opened; None if there was none.
        file: The rows in use, set by the owner; None before the layout is known.
        contents: Tells what the manifest is to hold: `rings` (source to what there is to say of its ring,
            `next` and `n_rows`), `streams` and `origins` (numbers of them), and a document beside them. Set
            by the owner.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: RowFile | None = None
        self.contents: Callable[[], dict[str, Any]] = dict
        self._committed: tuple[dict[str, int], int, int] = ({}, -1, -1)
        self._being_written: list[str] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
            self._lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"{folder} is being written by another memory, in this process or another; close that one, "
                "or make a copy of it with ReplayMemory.load"
            ) from error
        except OSError as error:
            raise StorageError(
                f"storage_path must be a folder that can be written, but: {error}; choose another one"
            ) from error
        try:
            self.document = self._read()
        except BaseException:
            self.close()
            raise
        self._priorities = {
            source: ring["priorities"]
            for source, ring in rings_in(self.document or {}).items()
            if ring.get("priorities") is not None
        }

    def _read(self) -> dict[str, Any] | None:
        if not (self.folder / MANIFEST).exists():
            require_ours(self.folder, besides=(LOCK,))
            return None
        document, _ = read_manifest(self.folder)
        if document.get("kind") != KIND:
            raise DatasetError(
                f"{self.folder} must hold a memory that lives there, but holds a {document.get('kind')}; "
                "load it with ReplayMemory.load, or choose another storage_path"
            )
        return document

    def open_rows(self, row_dtype: np.dtype[np.void], info: RowFileInfo) -> RowFile:
        """Maps the files that the manifest names."""
        return RowFile(self.folder, info, row_dtype, "r+")

    def create_rows(self, row_dtype: np.dtype[np.void], sizes: Mapping[str, int]) -> RowFile:
        """Makes new files, with so many rows for the ring of each source.

        Raises:
            StorageError: The disk has no room; nothing is left behind.
        """
        return RowFile.create(self.folder, row_dtype, sizes)

    def announce(self, streams: int, origins: int, source: str, evicted_to: int) -> None:
        """Commits if rows are about to be written that the manifest could not be brought up to date by.

        Args:
            streams: Number of streams known, that of the rows included.
            origins: Number of origins known, likewise.
            source: Whose ring they are written to.
            evicted_to: Id of the oldest row that will be left in it.
        """
        next_ids, known_streams, known_origins = self._committed
        if streams > known_streams or origins > known_origins or evicted_to > next_ids[source]:
            self.commit()

    def commit(self) -> None:
        """Replaces the manifest, and removes files that it does not name."""
        contents = self.contents()
        rings, streams, origins = (contents.pop(key) for key in ("rings", "streams", "origins"))
        files = None if self.file is None else self.file.to_json()
        priorities = self._priorities  # read once: a flush may replace them
        described = {source: ring | {"priorities": priorities.get(source)} for source, ring in rings.items()}
        replace_manifest(self.folder, with_rings(contents | {"kind": KIND, "ring": files}, described))
        named = [entry["name"] for entry in (files, *priorities.values()) if entry is not None]
        remove_others(self.folder, [*named, *self._being_written])
        self._committed = {source: ring["next"] for source, ring in rings.items()}, streams, origins

    def write_priorities(self, rings: Mapping[str, tuple[str, int, NDArray[np.float64]]]) -> None:
        """Writes priorities for the next `commit` to name; other threads may commit meanwhile.

        Args:
            rings: Source to the kind of its sampler, the id of a row, and the priorities of that row and of
                those after it.
        """
        names = {source: new_name() for source in rings}
        self._being_written = list(names.values())
        written = {
            source: write_priorities(self.folder, names[source], *numbers)
            for source, numbers in rings.items()
        }
        self._priorities = self._priorities | written

    def sync(self) -> None:
        """Puts the rows on the disk."""
        while (file := self.file) is not None:
            try:
                file.sync()
            except FileNotFoundError:
                if self.file is file:
                    raise
            if self.file is file:  # no resize came between
                return

    def close(self) -> None:
        """Lets others write the folder."""
        self.file = None
        self._lock.release()
