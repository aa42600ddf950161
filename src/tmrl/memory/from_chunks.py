"""Rows into a memory as they are: what came over the line, or is in a dataset, in the memory's own layout.

What the memory would refuse of samples it refuses of rows. Rows that do not fit at once are not judged here:
their samples are, at the other door, which says what is wrong with them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from tmrl.chunk import Chunk
from tmrl.chunk_buffer import RowPart
from tmrl.packing import Packer, is_finite
from tmrl.rows import Rows
from tmrl.schema import Leaf, Schema, branch_of


def selected(rows: Rows, schema: Schema) -> Rows:
    """Rows in a layout all of whose leaves they have: as they are, or the leaves copied."""
    if rows.dtype == schema.row_dtype:
        return rows
    chosen = np.zeros(len(rows), schema.row_dtype)
    for leaf in schema.leaves:
        chosen[leaf.name] = rows[leaf.name]
    return chosen


def not_finite(rows: Rows, leaves: Iterable[Leaf]) -> Leaf | None:
    """The first of the leaves that holds a NaN or an infinity."""
    floats = (leaf for leaf in leaves if leaf.dtype.kind in "fc" or leaf.is_bfloat16)
    return next((leaf for leaf in floats if not is_finite(leaf, rows[leaf.name]).all()), None)


def chunks_of_rows(
    parts: Sequence[RowPart], packer: Packer, source: str, continues: bool
) -> list[Chunk] | None:
    """Chunks in the layout of a memory.

    Args:
        parts: What arrived, see `ChunkBuffer.row_parts`.
        packer: Of the memory's layout; knows what must be finite.
        source: Label of rows that do not say where they come from.
        continues: Whether rows without a stamp, if there are no others, go on where the last ones ended.

    Returns:
        None if anything about them is such that the samples have to be asked.
    """
    finite = [leaf for leaf in packer.schema.leaves if packer.must_be_finite(leaf)]
    fits = {id(part.schema): is_held_by(packer.schema, part.schema) for part in parts}
    if not all(fits.values()):
        return None
    is_plain = not any(part.is_stamped for part in parts)
    chunks: list[Chunk] = []
    for index, part in enumerate(parts):
        rows = selected(part.chunk.rows, packer.schema)
        if not_finite(rows, finite) is not None:
            return None
        goes_on = continues if is_plain and index == 0 else part.chunk.continues
        chunks.append(replace(part.chunk, rows=rows, source=part.source(source), continues=goes_on))
    return chunks


def is_held_by(schema: Schema, found: Schema) -> bool:
    """Whether rows of another layout, as they are, hold what samples would become in this one."""
    if schema.with_crc and (not found.with_crc or schema.crc_names != found.crc_names):
        return False
    pairs = [("obs", schema.obs, found.obs), ("act", schema.act, found.act)]
    for key, nest in schema.info.items():
        if key not in found.info:
            return False
        pairs.append((key, nest, found.info[key]))
    return all(branch_of(name, nest) == branch_of(name, other) for name, nest, other in pairs)
