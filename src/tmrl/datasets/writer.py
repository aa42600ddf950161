"""Writes our own folder of rows, episode by episode; `tmrl.datasets.native` reads it and says what is in it.

Files are written first, and named by the manifest when they are whole. Until then nobody sees them.
"""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tmrl.datasets.dataset import About, Dataset, Episode
from tmrl.datasets.files import (
    MANIFEST,
    read_manifest,
    remove_others,
    replace_manifest,
    require_ours,
    row_checks,
    write_array,
)
from tmrl.datasets.native import KIND, Entry, Index, NativeDataset, Segment
from tmrl.datasets.spaces import environment_to_json
from tmrl.errors import DatasetError
from tmrl.rows import join_rows
from tmrl.schema import Schema
from tmrl.schema_json import schema_to_json

if TYPE_CHECKING:
    from tmrl.rows import Rows

BYTES_PER_SEGMENT = 1 << 26


class DatasetWriter:
    """Writes episodes to a folder of our own format.

    Used in a `with` statement, it closes itself; after an exception, what was not on disk yet is left out.

    Args:
        folder: Made if need be; it must be empty, or `append` be true.
        schema: The layout of the rows; it says by which history their observations were compressed, if any.
        environment: Id of the environment.
        observation_space: The gymnasium space.
        action_space: Likewise.
        durable: Whether each episode is on the disk when `write` returns, in files of its own; otherwise
            episodes share files of about 64 MB, and the folder holds them when the writer is closed.
        append: Whether to go on with the dataset that the folder holds.

    Raises:
        DatasetError: The folder holds something else, or rows of another layout.
    """

    def __init__(
        self,
        folder: str | Path,
        schema: Schema,
        environment: str | None = None,
        observation_space: Any = None,
        action_space: Any = None,
        *,
        durable: bool = False,
        append: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.schema = schema
        self.durable = durable
        self._environment = environment_to_json(About("native", environment, observation_space, action_space))
        self._index = Index()
        self._known: int | None = None
        self._named: set[str] = set()
        self._waiting: list[Rows] = []
        self._is_open = True
        check_is_free(self.folder, append)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / MANIFEST).exists():
            self._go_on()
        remove_others(self.folder, self._named)

    def _go_on(self) -> None:
        dataset = NativeDataset(self.folder)
        if dataset.schema != self.schema:
            raise DatasetError(
                f"{self.folder} holds rows of another layout, {dataset.schema}, than what is to be appended, "
                f"{self.schema}; write to another folder"
            )
        self._index = dataset.index
        body, self._known = read_manifest(self.folder)
        self._environment = body["environment"]
        self._named = {segment.name for segment in self._index.segments}

    def write(self, episode: Episode) -> None:
        """Takes in one episode; its rows are copied.

        Raises:
            ValueError: Its rows have another layout, are none, or go on after the end of the episode.
            DatasetError: Somebody else wrote to the folder meanwhile.
        """
        rows = episode.rows
        if not self._is_open:
            raise ValueError(f"the writer of {self.folder} must be open, but it was closed; make another one")
        if rows.dtype != self.schema.row_dtype or not len(rows):
            raise ValueError(
                f"an episode must be at least 1 row of {self.schema}, got {rows.shape} of {rows.dtype}"
            )
        if (rows["terminated"][:-1] | rows["truncated"][:-1]).any():
            raise ValueError(
                "an episode must end with the first row that is terminated or truncated; cut it there"
            )
        # Until all of it is done: after an exception, the index may say more than the files hold.
        self._is_open = False
        self._waiting.append(rows if self.durable else join_rows([rows]))
        labels = episode.worker, episode.source, episode.begins, episode.changes
        self._index.entries.append(Entry(len(rows), *labels))
        if self.durable:
            self._write_segment()
            self._name_all()
        elif sum(waiting.nbytes for waiting in self._waiting) >= BYTES_PER_SEGMENT:
            self._write_segment()
        self._is_open = True

    def close(self) -> None:
        """Puts everything on the disk; closing twice is the same as once."""
        if not self._is_open:
            return
        self._is_open = False
        if self._waiting:
            self._write_segment()
        if len(self._index.segments) != len(self._named) or self._known is None:
            self._name_all()

    def _write_segment(self) -> None:
        rows = join_rows(self._waiting)
        self._waiting = []
        name = f"{len(self._index.segments):08d}-{secrets.token_hex(4)}"
        rows_crc = write_array(self.folder / f"{name}.rows.npy", rows)
        checks_crc = write_array(self.folder / f"{name}.checks.npy", row_checks(rows))
        self._index.segments.append(Segment(name, len(rows), rows_crc, checks_crc))

    def _name_all(self) -> None:
        """Names all segments in the manifest."""
        is_there = (self.folder / MANIFEST).exists()
        if (read_manifest(self.folder)[1] if is_there else None) != self._known:
            raise DatasetError(
                f"{self.folder} was written to by somebody else meanwhile; one writer at a time"
            )
        body = {"kind": KIND, "schema": schema_to_json(self.schema), "environment": self._environment}
        self._known = replace_manifest(self.folder, body | self._index.to_json())
        self._named = {segment.name for segment in self._index.segments}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._is_open = False
            remove_others(self.folder, self._named)


def check_is_free(folder: Path, append: bool = False) -> None:
    """Checks that a dataset may be written to a folder.

    Raises:
        DatasetError: It holds something else, or a dataset that is not to be appended to.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DatasetError(f"{folder} must be a folder, but is a file; choose another name")
    if not (folder / MANIFEST).exists():
        require_ours(folder)
    elif not append:
        raise DatasetError(
            f"{folder} holds a {read_manifest(folder)[0].get('kind')} already; choose another folder"
        )


def write_native(dataset: Dataset, out: Path, drop: bool) -> list[str]:  # noqa: ARG001 - nothing is dropped
    """Writes a dataset to a new folder of our own format, which can hold all of it.

    Returns:
        No remarks.

    Raises:
        DatasetError: The folder holds something else.
    """
    about = dataset.about
    spaces = about.observation_space, about.action_space
    with DatasetWriter(out, dataset.schema, about.environment, *spaces) as writer:
        for episode in dataset.episodes():
            writer.write(episode)
    return []
