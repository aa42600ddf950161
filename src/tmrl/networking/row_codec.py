"""Rows as bytes: the schema as JSON, then the rows as they are, or some of their fields compressed.

Beside the rows travels what a row does not say: which stream it is of, its place in its episode, and whether
it had an action. Of these the places are runs, `(episode, first step in it, length)`, a few for each parcel.
What the peer could say wrongly it is not asked: offsets and sizes follow from the schema.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.chunk import DEFAULT_SOURCE, PLAIN, Chunk, Run, Stream, plain_starts, runs_of
from tmrl.chunk_buffer import RowPart
from tmrl.errors import ParcelError, SchemaError
from tmrl.networking.compression import compressed, decompressed
from tmrl.networking.reading import MAX_NUMBER, Body, Limits, expect, number
from tmrl.packing import Packer, is_named
from tmrl.rows import Rows, take_rows
from tmrl.schema import Leaf, Schema
from tmrl.schema_json import schema_from_json, schema_to_json

MAX_SCHEMA_BYTES = 1 << 18
MAX_RUNS = 1 << 13
"""In one parcel; each becomes objects of a kilobyte."""

_UNSAID = "\0unsaid"
"""Stands for the label of samples that carry none."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is said of rows before them; made once for a schema."""

    packer: Packer
    document: bytes
    """The schema as JSON."""
    compressed: tuple[Leaf, ...]
    """Fields that travel compressed, each as one column."""
    rest: np.dtype[np.void]
    """What remains of a row."""

    @staticmethod
    def of(schema: Schema, compress: Collection[str]) -> "Layout":
        """The layout of a schema's rows, with the leaves that `compress` names taken out."""
        columns = tuple(leaf for leaf in schema.leaves if is_named(leaf.name, compress))
        document = json.dumps(schema_to_json(schema), separators=(",", ":")).encode()
        if len(document) > MAX_SCHEMA_BYTES:
            raise SchemaError(f"a schema must be at most {MAX_SCHEMA_BYTES:,} bytes, got {len(document):,}")
        return Layout(Packer(schema, ()), document, columns, _rest(schema, columns))


def _rest(schema: Schema, columns: Collection[Leaf]) -> np.dtype[np.void]:
    if not columns:
        return schema.row_dtype
    names = {leaf.name for leaf in columns}
    return np.dtype([(leaf.name, leaf.dtype, leaf.shape) for leaf in schema.leaves if leaf.name not in names])


def encode_rows(samples: Sequence[Any], layout: Layout, level: int) -> tuple[list[Any], list[Any]]:
    """Packs samples and encodes their rows.

    Returns:
        What the header is to say, and the body: bytes, or views of the rows.

    Raises:
        BadSampleError: A sample does not fit.
        IntegrityError: In CRC mode, a sample carries no checksums.
    """
    rows = layout.packer.pack(samples)
    runs = runs_of(samples, _UNSAID, continues=False)
    if len(runs) > MAX_RUNS:
        raise ValueError(f"rows must be of at most {MAX_RUNS:,} runs, got {len(runs):,}")
    if len(runs) > 1:
        order = [pick for run in runs for pick in run.picks]
        rows, samples = take_rows(rows, np.array(order)), [samples[i] for i in order]
    places = _places(samples)
    actless = np.array([i for i, sample in enumerate(samples) if sample[0] is None], "<i8")
    blobs = [compressed(np.ascontiguousarray(rows[leaf.name]), level) for leaf in layout.compressed]
    names = [leaf.name for leaf in layout.compressed]
    sizes = [[name, len(blob)] for name, blob in zip(names, blobs, strict=True)]
    says = [layout.document, [_says(run) for run in runs], sizes, len(places), len(actless)]
    rest: Any = _select(rows, layout.rest).view(np.uint8)
    return says, [memoryview(rest), *blobs, places.tobytes(), actless.tobytes()]


def _says(run: Run) -> list[Any]:
    source = None if run.source == _UNSAID else run.source
    return [*run.stream, run.first_step, source, run.continues, run.policy_version, len(run.picks)]


def _places(samples: Sequence[Any]) -> NDArray[np.int64]:
    """`(n, 3)` runs of samples that follow each other in an episode, those with a stamp alone."""
    stamps = [sample.stamp for sample in samples if hasattr(sample, "stamp")]
    if not stamps:
        return np.empty((0, 3), "<i8")
    _, _, _, episodes, steps, *_ = zip(*stamps, strict=True)
    columns = np.array([episodes, steps], np.int64)
    follows = (np.diff(columns[0]) == 0) & (np.diff(columns[1]) == 1)
    firsts = np.concatenate([[0], np.flatnonzero(~follows) + 1])
    lengths = np.diff(firsts, append=len(stamps))
    return np.stack([*columns[:, firsts], lengths], axis=1).astype("<i8", copy=False)


def _select(rows: Rows, dtype: np.dtype[np.void]) -> Rows:
    if rows.dtype == dtype:
        return rows
    selected = np.empty(len(rows), dtype)
    for name in dtype.names or ():
        selected[name] = rows[name]
    return selected


@lru_cache(maxsize=64)
def _schema_of(document: bytes) -> Schema:
    if len(document) > MAX_SCHEMA_BYTES:
        raise ParcelError(f"a schema must be at most {MAX_SCHEMA_BYTES:,} bytes, got {len(document):,}")
    found = json.loads(document)
    if "history" in expect(dict, "a schema", found):
        raise ParcelError("a schema on the line has no history: the memory knows it")
    schema = schema_from_json(found)
    _ = schema.row_dtype, schema.crc_names  # here, where a name that stands twice is told
    return schema


def decode_rows(says: list[Any], body: Body, n_samples: int, limits: Limits) -> list[RowPart]:
    """The rows that `encode_rows` encoded; they refer to the parcel, and are only to be read.

    Raises:
        ParcelError: They are no such rows.
    """
    document, runs, sizes, n_places, n_actless = says
    schema = _schema_of(expect(bytes, "a schema", document))
    n_bytes = n_samples * schema.row_dtype.itemsize
    if n_bytes > limits.max_bytes:
        raise ParcelError(f"rows must be at most {limits.max_bytes:,} bytes, got {n_bytes:,}")
    rows = _rows(schema, expect(list, "columns", sizes), body, n_samples)
    places = _integers(body, number("places", n_places, 0, n_samples), 3).reshape(-1, 3)
    is_actless = _mask(_integers(body, number("actless", n_actless, 0, n_samples), 1), n_samples)
    spans = _spans(expect(list, "runs", runs), n_samples)
    stamped = sum(n for _, first_step, *_, n in spans if first_step is not None)
    episodes, steps = _expanded(places, stamped)
    parts: list[RowPart] = []
    start = place = 0
    for stream, first_step, source, continues, version, n in spans:
        mine, actless = rows[start : start + n], is_actless[start : start + n]
        start += n
        if first_step is None:
            numbers = step_numbers = np.zeros(n, np.int64)
            starts = plain_starts(mine, actless)
        else:
            numbers, step_numbers = episodes[place : place + n], steps[place : place + n]
            starts = step_numbers == 0
            place += n
            if (actless & ~starts).any():
                raise ParcelError("a step must have an action, but a row that begins no episode has none")
        label = DEFAULT_SOURCE if source is None else source
        chunk = Chunk(mine, starts, numbers, stream, first_step, label, continues, version)
        parts.append(RowPart(chunk, schema, source is not None, step_numbers, actless))
    return parts


def _rows(schema: Schema, sizes: list[Any], body: Body, n: int) -> Rows:
    columns = _columns(schema, sizes)
    rest_dtype = _rest(schema, [leaf for leaf, _ in columns])
    data = body.take(n * rest_dtype.itemsize, "rows")
    rest: Rows = np.frombuffer(data, rest_dtype) if len(data) else np.zeros(n, rest_dtype)
    rows = rest
    if columns:
        rows = np.zeros(n, schema.row_dtype)
        for name in rest_dtype.names or ():
            rows[name] = rest[name]
    for leaf, size in columns:
        data = decompressed(body.take(size, leaf.name), n * leaf.n_bytes, leaf.name)
        rows[leaf.name] = np.frombuffer(data, leaf.dtype).reshape(n, *leaf.shape)
    for leaf in schema.leaves:
        if leaf.dtype.kind == "b" and rows[leaf.name].view(np.uint8).max(initial=0) > 1:
            raise ParcelError(f"{leaf.name} must hold zeros and ones")
    return rows


def _columns(schema: Schema, sizes: list[Any]) -> list[tuple[Leaf, int]]:
    leaves = {leaf.name: leaf for leaf in schema.leaves}
    columns: list[tuple[Leaf, int]] = []
    for name, size in sizes:
        if name not in leaves:
            raise ParcelError(f"a compressed column must be a field of the rows, once, got {name!r}")
        columns.append((leaves.pop(name), number("a column", size)))
    return columns


def _integers(body: Body, n: int, width: int) -> NDArray[np.int64]:
    values = np.frombuffer(body.take(8 * n * width, "places"), "<i8")
    if n and not 0 <= values.min() <= values.max() < MAX_NUMBER:
        raise ParcelError("steps and episodes must be counted from 0")
    return values


def _mask(indices: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    mask = np.zeros(n, np.bool_)
    if len(indices) and indices.max() >= n:
        raise ParcelError(f"a row without an action must be one of {n:,}")
    mask[indices] = True
    return mask


Span = tuple[Stream, int | None, str | None, bool, int, int]
"""Stream, first step, source, whether it continues, policy version, number of rows."""


def _spans(runs: list[Any], n_samples: int) -> list[Span]:
    number("runs", len(runs), 0, MAX_RUNS)
    spans = [_span(run) for run in runs]
    n = sum(span[-1] for span in spans)
    if n != n_samples:
        raise ParcelError(f"the runs must make {n_samples:,} rows, got {n:,}")
    return spans


def _span(run: Any) -> Span:
    worker, epoch, first_step, source, continues, version, n = expect(list, "a run", run)
    stream = Stream(expect(str, "worker", worker), number("epoch", epoch))
    if first_step is None:
        stream = PLAIN
    else:
        number("step", first_step)
    if source is not None:
        expect(str, "source", source)
    number("policy version", version)
    return stream, first_step, source, expect(bool, "continues", continues), version, number("rows", n, 1)


def _expanded(places: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Episode and step in it for each row."""
    lengths = places[:, 2]
    if len(places) and not 1 <= lengths.min() <= lengths.max() <= n:
        raise ParcelError(f"episodes must have from 1 to {n:,} rows")
    if int(lengths.sum()) != n:
        raise ParcelError(f"the episodes must make {n:,} rows, got {int(lengths.sum()):,}")
    firsts = np.cumsum(lengths) - lengths
    episodes = np.repeat(places[:, 0], lengths)
    return episodes, np.arange(n) + np.repeat(places[:, 1] - firsts, lengths)
