"""Intake: the door of a ready-made memory. Learns the schema from what arrives first, then packs by it."""

from base64 import b64decode, b64encode
from collections.abc import Collection, Sequence
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from tmrl.buffer import Buffer
from tmrl.chunk import Chunk, Stream, chunks_of
from tmrl.chunk_buffer import ChunkBuffer, RowPart
from tmrl.errors import DatasetError
from tmrl.first_samples import infer_act, infer_schema
from tmrl.history import History
from tmrl.memory.from_chunks import chunks_of_rows
from tmrl.packing import Packer, check_lengths
from tmrl.schema import Nest, Schema, example_from_space
from tmrl.schema_json import nest_from_json, nest_to_json

if TYPE_CHECKING:
    from tmrl.rows import Rows

MAX_WAITING = 1000


class Intake:
    """Turns samples into chunks of one schema.

    The schema comes from the spaces, or from the first samples. A first Buffer may hold only reset samples,
    which have no action: they wait, packed without one, until a sample shows what an action is.

    Args:
        observation_space: A gymnasium space, or None to take the layout from the first sample.
        action_space: Likewise, from the first sample with an action.
        info_keys: Entries of `info` to keep.
        finite: Fields that must be finite, see `Packer`.
        with_crc: Whether rows hold the worker's checksums.
        history: What the workers leave out of observations; the observation space is that of whole ones.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        info_keys: Collection[str],
        finite: Collection[str],
        with_crc: bool,
        history: History | None = None,
    ) -> None:
        if isinstance(info_keys, str) or isinstance(finite, str):
            raise TypeError('info_keys and finite must be tuples of names, as in ("success",), got a str')
        self._obs = self._given_obs = _from_space("obs", observation_space, history)
        self._act = self._given_act = _from_space("act", action_space)
        self._info_keys = tuple(info_keys)
        self._finite = tuple(finite)
        self._with_crc = with_crc
        self._history = history
        self._packer: Packer | None = None
        self._waiting: list[Chunk] = []

    @property
    def schema(self) -> Schema | None:
        """The schema, once it is known."""
        return None if self._packer is None else self._packer.schema

    def settings(self) -> dict[str, Any]:
        """The arguments that a memory is made with again, as what `json.dumps` takes."""
        return {"info_keys": list(self._info_keys), "finite": list(self._finite)}

    def state(self) -> dict[str, Any]:
        """What is known and what waits, as what `json.dumps` takes."""
        return {
            "obs": None if self._obs is None else nest_to_json(self._obs),
            "act": None if self._act is None else nest_to_json(self._act),
            "waiting": [_chunk_to_json(chunk) for chunk in self._waiting],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned; spaces that were given to this intake stay."""
        self._packer = None
        self._obs = self._given_obs or _from_json("obs", state["obs"])
        self._act = self._given_act or _from_json("act", state["act"])
        self._waiting = [_chunk_from_json(document) for document in state["waiting"]]

    def schema_for(self, found: Schema) -> Schema:
        """The layout of this memory's rows: as known, or as its spaces and `info_keys` choose of another.

        Raises:
            DatasetError: An entry of `info_keys` is not in the other one, or its history is another.
        """
        if self._packer is not None:
            return self._packer.schema
        missing = [key for key in self._info_keys if key not in found.info]
        if missing:
            raise DatasetError(
                f"info_keys must name entries that the dataset has ({', '.join(found.info) or 'none'}), got "
                f"{missing[0]!r}; leave it out"
            )
        if found.history != self._history:
            other = ", or export it to npz, which makes its observations whole" if found.history else ""
            raise DatasetError(
                f"the dataset must have the history {self._history}, as the memory has, got {found.history}; "
                f"give the memory the history that the dataset was recorded with{other}"
            )
        info = {key: found.info[key] for key in self._info_keys}
        return Schema(self._obs or found.obs, self._act or found.act, info, self._with_crc, self._history)

    def adopt(self, schema: Schema) -> tuple[Packer, list[Chunk]]:
        """Takes a schema as given, unless one is known, instead of waiting for samples to show it.

        Returns:
            What checks the values of rows, and the chunks that waited.
        """
        self._packer = self._packer or Packer(schema, self._finite)
        earlier, self._waiting = [_widened(chunk, schema) for chunk in self._waiting], []
        return self._packer, earlier

    def difference(self, schema: Schema) -> str | None:
        """What about a schema is not what this intake was asked for, in words; None if nothing is."""
        pairs = (("obs", self._given_obs, schema.obs), ("act", self._given_act, schema.act))
        for name, wanted, found in pairs:
            if wanted is not None and wanted != found:
                return f"{name}: expected {_listed(wanted)}, found {_listed(found)}"
        if set(self._info_keys) != set(schema.info):
            return f"info_keys: expected {sorted(self._info_keys)}, found {sorted(schema.info)}"
        if self._history != schema.history:
            return f"history: expected {self._history}, found {schema.history}"
        if self._with_crc != schema.with_crc:
            return f"crc_debug: expected {self._with_crc}, found {schema.with_crc}"
        return None

    def forget(self, waiting: list[Chunk]) -> None:
        """Forgets a schema that could not be used; the rows that waited for it go on waiting."""
        self._packer = None
        self._waiting = waiting

    @property
    def waiting(self) -> list[Chunk]:
        """Rows that wait for a schema."""
        return list(self._waiting)

    def take(self, buffer: Buffer, source: str, continues: bool) -> list[Chunk]:
        """Checks what a Buffer holds, as `chunks` does; rows that fit as they are stay packed."""
        parts = buffer.row_parts() if isinstance(buffer, ChunkBuffer) else None
        chunks = self._chunks_of_rows(parts, source, continues) if parts else None
        return self.chunks(buffer.memory, source, continues) if chunks is None else chunks

    def _chunks_of_rows(self, parts: list[RowPart], source: str, continues: bool) -> list[Chunk] | None:
        packer = self._packer or self._packer_for(parts[0].schema)
        chunks = None if packer is None else chunks_of_rows(parts, packer, source, continues)
        if packer is None or chunks is None or self._packer is not None:
            return chunks
        return self.adopt(packer.schema)[1] + chunks

    def _packer_for(self, found: Schema) -> Packer | None:
        """What the first rows show, as far as samples would; None if these have to be asked."""
        try:
            info = {key: found.info[key] for key in self._info_keys}
            obs, act = self._obs or found.obs, self._act or found.act
            return Packer(Schema(obs, act, info, self._with_crc, self._history), self._finite)
        except (KeyError, ValueError):
            return None

    def chunks(self, samples: Sequence[Any], source: str, continues: bool) -> list[Chunk]:
        """Checks and packs samples, as `chunks_of` does; an empty list while the schema is not yet known.

        Raises:
            BadSampleError: A sample does not fit.
            SchemaError: A first sample shows something that no row can hold.
            IntegrityError: In CRC mode, a sample carries no checksums.
        """
        if self._packer is not None:
            return chunks_of(samples, self._packer, source, continues)
        check_lengths(samples)
        schema = self._infer(samples)
        if schema is None:
            self._wait(samples, source, continues)
            return []
        packer = Packer(schema, self._finite)
        chunks = chunks_of(samples, packer, source, continues)
        # Only now: a Buffer that was refused must not decide what the next ones have to look like.
        return self.adopt(schema)[1] + chunks

    def _infer(self, samples: Sequence[Any]) -> Schema | None:
        return infer_schema(samples, self._info_keys, self._with_crc, self._obs, self._act, self._history)

    def _wait(self, samples: Sequence[Any], source: str, continues: bool) -> None:
        """Packs reset samples as far as they go, which checks and copies them."""
        obs = self._obs or Nest.infer("obs", samples[0][1])
        partial = Schema(obs, self._act or infer_act(samples) or Nest.infer("act", ()), history=self._history)
        finite = [name for name in self._finite if name.split("/")[0] in {"obs", "rew"}]
        self._waiting += chunks_of(samples, Packer(partial, finite), source, continues)
        self._obs = obs
        del self._waiting[:-MAX_WAITING]


def _from_space(name: str, space: Any, history: History | None = None) -> Nest | None:
    if space is None:
        return None
    example = example_from_space(name, space)
    return Nest.infer(name, example if history is None else history.kept(example))


def _from_json(name: str, document: Any) -> Nest | None:
    return None if document is None else nest_from_json(name, document)


def _listed(nest: Nest) -> str:
    return ", ".join(f"{leaf.name} {leaf}" for leaf in nest.leaves) or "nothing"


def _chunk_to_json(chunk: Chunk) -> dict[str, Any]:
    file = BytesIO()
    np.save(file, chunk.rows, allow_pickle=False)
    return {
        "rows": b64encode(file.getvalue()).decode(),
        "starts": chunk.starts.tolist(),
        "episodes": chunk.episodes.tolist(),
        "rest": [list(chunk.stream), chunk.first_step, chunk.source, chunk.continues],
    }


def _chunk_from_json(document: dict[str, Any]) -> Chunk:
    rows = np.load(BytesIO(b64decode(document["rows"])), allow_pickle=False)
    starts, episodes = np.array(document["starts"], np.bool_), np.array(document["episodes"], np.int64)
    stream, first_step, source, continues = document["rest"]
    return Chunk(rows, starts, episodes, Stream(*stream), first_step, source, continues)


def _widened(chunk: Chunk, schema: Schema) -> Chunk:
    """The rows of a chunk that was packed without actions, in the full schema; the rest is zero."""
    rows: Rows = np.zeros(len(chunk.rows), schema.row_dtype)
    for name in chunk.rows.dtype.names or ():
        rows[name] = chunk.rows[name]
    return replace(chunk, rows=rows)
