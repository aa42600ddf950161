"""Samples as episodes of rows: what a worker collected, and what a `data.pkl` holds."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from tmrl.chunk import Chunk
from tmrl.datasets.dataset import Episode, cut
from tmrl.errors import SchemaError
from tmrl.history import History
from tmrl.rows import join_rows
from tmrl.schema import Nest, Schema, info_name


def schema_of(samples: Sequence[Any], info_keys: Collection[str], history: History | None = None) -> Schema:
    """The layout that these samples show.

    Args:
        samples: At least one, and at least one of them with an action.
        info_keys: Entries of `info` to keep.
        history: That of the worker that collected them; None if observations are whole.

    Raises:
        HistoryError: The observations are not what the history keeps.
        SchemaError: A sample holds something that no row can hold, or none has what is to be kept.
    """
    infos = [sample[5] for sample in samples]
    act = next((sample[0] for sample in samples if sample[0] is not None), None)
    nests: dict[str, Nest] = {}
    for key in info_keys:
        found = [info[key] for info in infos if key in info]
        if not found:
            raise SchemaError(
                f"info_keys must name entries of the info of each step, but no sample has {key!r}"
            )
        nests[key] = Nest.infer(info_name(key), found[0])
    with_crc = any("crc" in info for info in infos)
    return Schema(Nest.infer("obs", samples[0][1]), Nest.infer("act", act), nests, with_crc, history)


def episodes_of(chunks: Sequence[Chunk]) -> list[Episode]:
    """Cuts chunks of one stream, which follow each other, into episodes."""
    rows = join_rows([chunk.rows for chunk in chunks])
    begins = np.concatenate([chunk.starts for chunk in chunks])
    numbers = np.concatenate([chunk.episodes for chunk in chunks])
    sources = np.concatenate([np.full(len(chunk.rows), chunk.source) for chunk in chunks])
    starts = begins.copy()
    starts[0] = True
    starts[1:] |= numbers[1:] != numbers[:-1]
    starts[1:] |= rows["terminated"][:-1] | rows["truncated"][:-1]
    return cut(rows, starts, begins, np.full(len(rows), chunks[0].stream.worker), sources)
