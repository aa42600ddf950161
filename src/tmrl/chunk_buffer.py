"""ChunkBuffer: a Buffer that arrived as rows, and becomes samples only for those who ask.

A memory of rows takes the rows as they are. A user's memory reads `buffer.memory`, a plain list of samples:
the first time it is read all rows are unpacked, and from then on the list is the truth, because callers may
append to it and slice it.

What comes back of a row is what the row holds: observations and actions bit by bit, rewards as float32, flags
as bool, of `info` the entries that rows keep. Numbers come as NumPy scalars. `act` is None exactly where it
was None on the worker, which the rows' sender says beside them. An entry of `info` that a reset sample lacked
comes back as zeros, and so do the checksums of its transition, of which there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.buffer import Buffer
from tmrl.chunk import DEFAULT_SOURCE, Chunk, Stream
from tmrl.rows import Rows
from tmrl.schema import Leaf, Nest, Schema
from tmrl.transition import Sample, Stamp


@dataclass(frozen=True, slots=True)
class RowPart:
    """Rows of one stream that arrived together."""

    chunk: Chunk
    """The rows; its source is the default one where `is_labelled` is False."""
    schema: Schema
    """Their layout."""
    is_labelled: bool
    """Whether the samples themselves say where they come from."""
    episode_steps: NDArray[np.int64]
    """Number of each row in its episode; zeros where samples carry no stamp."""
    is_actless: NDArray[np.bool_]
    """Which samples had None as their action."""

    def __len__(self) -> int:
        return len(self.chunk.rows)

    @property
    def is_stamped(self) -> bool:
        """Whether the samples carry a stamp."""
        return self.chunk.first_step is not None

    def source(self, given: str) -> str:
        """Label of where the rows come from; `given` where they do not say."""
        return self.chunk.source if self.is_labelled else given

    def without_oldest(self, n_rows: int) -> "RowPart":
        """The part without its first rows."""
        chunk, kept = self.chunk, slice(n_rows, None)
        cut = replace(
            chunk,
            rows=chunk.rows[kept],
            starts=chunk.starts[kept],
            episodes=chunk.episodes[kept],
            first_step=None if chunk.first_step is None else chunk.first_step + n_rows,
        )
        return replace(
            self, chunk=cut, episode_steps=self.episode_steps[kept], is_actless=self.is_actless[kept]
        )

    def samples(self) -> list[Any]:
        """The samples, stamped if they were; copies of the rows."""
        rows, schema = self.chunk.rows, self.schema
        obs, acts = _nests(schema.obs, rows), _nests(schema.act, rows)
        acts = [None if is_actless else act for act, is_actless in zip(acts, self.is_actless, strict=True)]
        flags = [rows[name].tolist() for name in ("terminated", "truncated")]
        values = list(zip(acts, obs, list(rows["rew"]), *flags, self._infos(), strict=True))
        if self.chunk.first_step is None:
            return values
        stream, source = self.chunk.stream, self.source(DEFAULT_SOURCE)
        places = zip(self.chunk.episodes.tolist(), self.episode_steps.tolist(), strict=True)
        steps = enumerate(places, self.chunk.first_step)
        version = self.chunk.policy_version
        stamps = (Stamp(*stream, step, episode, place, source, version) for step, (episode, place) in steps)
        return [Sample(six, stamp) for six, stamp in zip(values, stamps, strict=True)]

    def _infos(self) -> list[dict[str, Any]]:
        rows, schema = self.chunk.rows, self.schema
        infos: list[dict[str, Any]] = [{} for _ in range(len(rows))]
        for key, nest in schema.info.items():
            for info, value in zip(infos, _nests(nest, rows), strict=True):
                info[key] = value
        if self.is_labelled and not self.is_stamped:
            for info in infos:
                info["source"] = self.chunk.source
        if schema.with_crc:
            for info, record in zip(infos, self._crc_records(), strict=True):
                info["crc"] = record
        return infos

    def _crc_records(self) -> list[dict[str, Any]]:
        names, worker = self.schema.crc_names, self.chunk.stream.worker
        columns = [self.chunk.rows[f"crc/{name}"].tolist() for name in ("episode", "step", "fields")]
        return [
            {
                "worker": worker,
                "episode": episode,
                "step": step,
                "fields": dict(zip(names, fields, strict=True)),
            }
            for episode, step, fields in zip(*columns, strict=True)
        ]


class ChunkBuffer(Buffer):
    """A Buffer of rows and samples in the order of their arrival.

    Args:
        parts: Rows, or lists of samples, which belong to this Buffer from now on. The rows are only read.
        maxlen: As of `Buffer`.

    Attributes:
        is_merged: Whether it holds more than arrived together.
        parcels: The Buffers that it was merged of, by a line that wants each to be taken or refused by
            itself; else empty.
    """

    def __init__(self, parts: Sequence[RowPart | list[Any]] = (), maxlen: int = 500_000) -> None:
        super().__init__(maxlen)
        self._parts: list[RowPart | list[Any]] = [part for part in parts if len(part)]
        self._n_in_parts = sum(map(len, self._parts))
        self._samples: list[Any] | None = None
        self.is_merged = False
        self.parcels: list[ChunkBuffer] = []

    @property
    def memory(self) -> list[Any]:
        """The samples, a plain list; the first call unpacks all rows, about 5 us a sample."""
        if self._samples is None:
            unpacked = (part if isinstance(part, list) else part.samples() for part in self._parts)
            self._samples = [sample for samples in unpacked for sample in samples]
            self._parts = []
        return self._samples

    @memory.setter
    def memory(self, samples: list[Any]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._samples, self._parts = samples, []

    @property
    def parts(self) -> list[RowPart | list[Any]]:
        """What is held, oldest first: rows and samples, or the samples alone once rows were unpacked."""
        return list(self._parts) if self._samples is None else [self._samples]

    def row_parts(self) -> list[RowPart] | None:
        """The rows, if they tell all that the samples would; None if only `memory` does.

        That is so once they were unpacked, beside samples, and where rows without a stamp arrived together
        with others: what they follow is then for the whole list to say.
        """
        parts = [part for part in self._parts if isinstance(part, RowPart)]
        if self._samples is not None or len(parts) < len(self._parts):
            return None
        if not self.is_merged:
            return parts
        if not all(part.is_stamped for part in parts):
            return None
        streams: dict[Stream, list[RowPart]] = {}
        for part in parts:
            streams.setdefault(part.chunk.stream, []).append(part)
        return [part for parts_of_stream in streams.values() for part in parts_of_stream]

    def clear(self) -> None:
        """Empties the Buffer, see `Buffer.clear`."""
        super().clear()
        self.is_merged = False
        self.parcels = []

    def __len__(self) -> int:
        return self._n_in_parts if self._samples is None else len(self._samples)

    def _drop_oldest(self, n_samples: int) -> None:
        if self._samples is not None:
            super()._drop_oldest(n_samples)
            return
        self._n_in_parts -= n_samples
        while n_samples:
            part = self._parts[0]
            if len(part) <= n_samples:
                n_samples -= len(part)
                del self._parts[0]
            else:
                self._parts[0] = (
                    part[n_samples:] if isinstance(part, list) else part.without_oldest(n_samples)
                )
                n_samples = 0

    def _extend(self, other: Buffer) -> None:
        if self._samples is not None:
            super()._extend(other)
            return
        is_chunked = isinstance(other, ChunkBuffer)
        self.is_merged = (
            self.is_merged or (len(other) > 0 and bool(self._parts)) or (is_chunked and other.is_merged)
        )
        for part in other.parts if is_chunked else [other.memory]:
            if len(part):
                self._parts.append(list(part) if isinstance(part, list) else part)
                self._n_in_parts += len(part)


def _nests(nest: Nest, rows: Rows) -> list[Any]:
    """A nest of each row."""
    columns = [_values(leaf, rows) for leaf in nest.leaves]
    if nest.is_leaf:
        return columns[0]
    leaves = zip(*columns, strict=True) if columns else [()] * len(rows)
    return [nest.pack_nest(values) for values in leaves]


def _values(leaf: Leaf, rows: Rows) -> list[Any]:
    """The values of a leaf: NumPy scalars, or arrays that the caller may write to."""
    column = rows[leaf.name].copy()
    if not leaf.is_bfloat16:
        return list(column)
    torch = import_module("torch")  # which alone has such a dtype; elsewhere this module does without
    return list(torch.from_numpy(column).view(torch.bfloat16))
