"""Datasets into a memory: episodes become chunks of rows, without a step in Python for each sample.

A dataset's rows are streams of their own, one for each worker, that no live stream ever continues. What the
memory would refuse of a worker it refuses of a dataset: another layout, or numbers that are not finite.
"""

import logging
from collections.abc import Iterator

import numpy as np

from tmrl.chunk import Chunk, Stream
from tmrl.datasets.dataset import Dataset, Episode
from tmrl.errors import DatasetError
from tmrl.memory.from_chunks import not_finite, selected
from tmrl.packing import Packer
from tmrl.rows import Rows
from tmrl.schema import Schema

logger = logging.getLogger(__name__)


def check_layout(expected: Schema, found: Schema) -> None:
    """Checks that rows of one layout hold all leaves of another.

    Raises:
        DatasetError: They do not; the message names the first leaf.
    """
    if expected.with_crc and not found.with_crc:
        raise DatasetError(
            "crc_debug needs the checksums of the workers, but the dataset has none; switch it off, or "
            "record with crc_debug"
        )
    leaves = {leaf.name: leaf for leaf in found.leaves}
    for leaf in expected.leaves:
        if leaves.get(leaf.name) != leaf:
            raise DatasetError(
                f"the dataset must have {leaf.name}: {leaf}, as the memory has, found "
                f"{leaves.get(leaf.name)}; no cast is made unasked: convert it, or give the memory the "
                "spaces of the dataset"
            )
    names = {leaf.name for leaf in (*expected.obs.leaves, *expected.act.leaves)}
    extra = [leaf.name for leaf in (*found.obs.leaves, *found.act.leaves) if leaf.name not in names]
    if extra:
        raise DatasetError(
            f"the memory must have {extra[0]}, as the dataset has; give it the dataset's spaces"
        )


def choose(dataset: Dataset, memory_size: int) -> int:
    """The oldest episode to take: from it on, all fit. The newest is taken in any case.

    What is left out, and what the importer had to assume, is logged.
    """
    for assumption in dataset.about.assumptions:
        logger.warning("%s dataset: %s", dataset.about.kind, assumption)
    if not len(dataset):
        logger.warning("the %s dataset holds no episodes: nothing is appended", dataset.about.kind)
        return 0
    held = np.cumsum(dataset.rows_per_episode[::-1])
    n_kept = max(1, int(np.searchsorted(held, memory_size + 1, side="right")))
    if n_kept < len(dataset):
        logger.warning(
            "memory_size=%d is less than the dataset: of its %d episodes the newest %d are kept",
            memory_size,
            len(dataset),
            n_kept,
        )
    return len(dataset) - n_kept


def chunks_of_dataset(
    dataset: Dataset, first: int, schema: Schema, packer: Packer, source: str | None, epoch: int
) -> Iterator[Chunk]:
    """The episodes from `first` on as chunks in the layout of a memory, a label each.

    Args:
        dataset: Its rows hold all leaves of `schema`.
        first: The oldest episode to take.
        schema: The memory's.
        packer: Knows what must be finite.
        source: Label of all rows; None keeps the episodes' own.
        epoch: Number of the streams; no other has had it.

    Raises:
        DatasetError: The files are damaged, or a number is not finite.
    """
    finite = [leaf for leaf in schema.leaves if packer.must_be_finite(leaf)]
    steps: dict[str, int] = {}
    for number, episode in enumerate(dataset.episodes(first), first):
        rows = selected(episode.rows, schema)
        leaf = not_finite(rows, finite)
        if leaf is not None:
            raise DatasetError(
                f"{leaf.name} must be finite, but episode {number} of the dataset holds NaN or infinity; "
                "leave the episode out, or give the memory another `finite`"
            )
        for start, stop, label in [(0, len(rows), source)] if source else episode.parts():
            step = steps.get(episode.worker, 0)
            steps[episode.worker] = step + stop - start
            yield _chunk(rows[start:stop], episode, start == 0, number, step, label or "", epoch)


def _chunk(
    rows: Rows, episode: Episode, is_first: bool, number: int, step: int, label: str, epoch: int
) -> Chunk:
    starts = np.zeros(len(rows), np.bool_)
    starts[0] = is_first and episode.begins
    numbers = np.full(len(rows), number, np.int64)
    return Chunk(rows, starts, numbers, Stream(episode.worker, epoch), step, label, continues=not is_first)
