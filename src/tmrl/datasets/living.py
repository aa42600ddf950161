"""A memory that lives in a folder, read as a dataset; its owner may go on writing meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.dataset import About
from tmrl.datasets.files import MANIFEST, read_manifest
from tmrl.datasets.linked import LinkedRows, own_links
from tmrl.datasets.priorities import damage_of_priorities
from tmrl.datasets.row_file import KIND, RowFile, info_in
from tmrl.datasets.segments import rings_in
from tmrl.datasets.stored_ring import StoredRing, linked
from tmrl.errors import DatasetError
from tmrl.rows import COLUMNS, Columns, Rows, record_dtype
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
            next_ids = {source: int(ring["next"]) for source, ring in rings_in(document).items()}
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{folder / MANIFEST} must be of a memory, but: {error!r}") from error
        info = info_in(document)
        stored = {} if info is None else RowFile(folder, info, schema.row_dtype, "r").rings
        self._rings = [_LivingRing(source, ring, next_ids[source]) for source, ring in stored.items()]
        self._starts = np.cumsum([0, *(len(ring.ids) for ring in self._rings)])
        columns = np.concatenate([np.empty(0, COLUMNS), *(ring.columns() for ring in self._rings)])
        oldest = self._rings[0].survey.oldest if self._rings else 0
        super().__init__(schema, About(KIND), columns["back"], columns["origin"], origins, self._copy, oldest)

    def _copy(self, places: NDArray[np.int64]) -> Rows:
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        rows = np.empty(len(places), self.schema.row_dtype).view(record_dtype(self.schema.row_dtype))
        for number, ring in enumerate(self._rings):
            chosen = numbers == number
            copied, _, is_right = ring.stored.copy(ring.ids[places[chosen] - self._starts[number]])
            rows[chosen] = copied.view(rows.dtype)
            if not is_right.all():
                raise DatasetError(
                    f"{self._folder} was written to while it was read, and rows are gone; read it again, or "
                    "make a copy in memory with ReplayMemory.load"
                )
        return rows.view(self.schema.row_dtype)

    def damage(self) -> Iterator[str]:
        """Names the first bad row of each ring by its id."""
        for ring in self._rings:
            yield from ring.damage(self._folder)
        for ring in rings_in(self._document).values():
            yield from damage_of_priorities(self._folder, ring)


class _LivingRing:
    """One ring of the memory, as it is now.

    Args:
        source: Whose it is; `""` for all sources that have none of their own.
        stored: Its rows.
        next_id: Id after that of the newest row when the manifest was written.
    """

    def __init__(self, source: str, stored: StoredRing, next_id: int) -> None:
        self.stored = stored
        self.survey = stored.survey()
        self.ids = np.arange(self.survey.oldest, self.survey.next)
        self._of_source = f" of source {source}" if source else ""
        self._next = next_id

    def columns(self) -> Columns:
        """What stands beside the rows, oldest first; no link leads out of the ring."""
        links = self.stored.links[self.ids % self.stored.n_rows]
        columns = linked(self.ids, links, self.survey.oldest, self.survey.is_held)
        columns["back"] = own_links(columns["back"])
        return columns

    def damage(self, folder: Path) -> Iterator[str]:
        """What is wrong with the rows, in words."""
        damaged = self.survey.damaged.tolist()
        if damaged:
            several = f" is the first of {len(damaged)} bad rows" if len(damaged) > 1 else " is bad"
            row_id = min(map(self.stored.row_id, damaged))
            yield f"{folder} is damaged: row {row_id}{self._of_source}{several}"
        missing = self._next - self.survey.next
        if missing > 0:
            yield f"{folder} is incomplete: the newest {missing} rows{self._of_source} are missing"
