"""A memory that lives in a folder, read as a dataset; its owner may go on writing meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.dataset import About
from tmrl.datasets.files import MANIFEST, read_manifest
from tmrl.datasets.linked import LinkedRows
from tmrl.datasets.priorities import damage_of_priorities
from tmrl.datasets.row_file import KIND, RowFile, Survey, info_in, linked
from tmrl.errors import DatasetError
from tmrl.rows import COLUMNS, Rows
from tmrl.schema import Nest, Schema
from tmrl.schema_json import schema_from_json


def is_living(path: Path) -> bool:
    """Whether a memory lives in a folder."""
    return (path / MANIFEST).is_file() and read_manifest(path)[0].get("kind") == KIND


class LivingMemory(LinkedRows):
    """The rows of a memory that lives in a folder, as they are now. Every checksum is read at once.

    Rows that are damaged are left out, as the memory itself would; `damage` names them.

    Args:
        folder: The folder.

    Raises:
        DatasetError: No memory lives there, or its files are damaged beyond single rows.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        document, _ = read_manifest(folder)
        self._document = document
        try:
            schema = Schema(Nest.infer("obs", ()), Nest.infer("obs", ()))
            if document["schema"] is not None:
                schema = schema_from_json(document["schema"])
            origins = [(str(worker), str(source)) for worker, source, *_ in document["state"]["tally"]]
            self._next = int(document["next"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{folder / MANIFEST} must be of a memory, but: {error!r}") from error
        info = info_in(document)
        self._file = None if info is None else RowFile(folder, info, schema.row_dtype, "r")
        self._survey = Survey.of_nothing() if self._file is None else self._file.survey()
        ids = np.arange(self._survey.oldest, self._survey.next)
        columns = np.empty(0, COLUMNS)
        if self._file is not None:
            links = self._file.links[ids % self._file.info.n_rows]
            columns = linked(ids, links, self._survey.oldest, self._survey.is_held)
        back, origin, oldest = columns["back"], columns["origin"], self._survey.oldest
        super().__init__(schema, About(KIND), back, origin, origins, self._copy, oldest)

    def _copy(self, places: NDArray[np.int64]) -> Rows:
        if self._file is None:
            return np.empty(0, self.schema.row_dtype)
        rows, _, is_right = self._file.copy(places + self._survey.oldest)
        if not is_right.all():
            raise DatasetError(
                f"{self._folder} was written to while it was read, and rows are gone; read it again, or make "
                "a copy in memory with ReplayMemory.load"
            )
        return rows

    def damage(self) -> Iterator[str]:
        """Names the first bad row by its id."""
        damaged = self._survey.damaged.tolist()
        if damaged and self._file is not None:
            several = f" is the first of {len(damaged)} bad rows" if len(damaged) > 1 else " is bad"
            yield f"{self._folder} is damaged: row {min(map(self._file.row_id, damaged))}{several}"
        missing = self._next - self._survey.next
        if missing > 0:
            yield f"{self._folder} is incomplete: the newest {missing} rows are missing"
        yield from damage_of_priorities(self._folder, self._document)
