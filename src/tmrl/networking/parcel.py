"""Parcel: the bytes of one Buffer, on the line from a worker to the trainer.

    magic, length of the header | header: msgpack | body: raw bytes

The header says all that a server has to know to store and forward a parcel, and nothing but the receiver
looks at the body. Where the trainer's memory keeps rows, it tells its `Wishes`, and the samples travel as the
rows that it will keep; else, or where they fit no row, they travel as they are. Each parcel says all that is
needed to read it, so that parcels may be lost, and come in any order.
"""

import logging
import struct
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from tmrl.buffer import Buffer
from tmrl.chunk_buffer import ChunkBuffer, RowPart
from tmrl.errors import BadSampleError, ParcelError, TmrlError
from tmrl.first_samples import infer_schema
from tmrl.networking.claims import check_claimed
from tmrl.networking.compression import compressed, decompressed
from tmrl.networking.documents import Beginning, packed, unpacked
from tmrl.networking.reading import Body, Limits, expect, number, refusals
from tmrl.networking.row_codec import Layout, decode_rows, encode_rows
from tmrl.networking.sample_codec import decode_samples, encode_samples
from tmrl.packing import check_lengths, worker_of
from tmrl.transition import SAMPLE_FIELDS, EpisodeRecord

logger = logging.getLogger(__name__)

MAGIC = b"tmrl\x01\0\0\0"
"""With the version of the format."""
_PREFIX = struct.Struct("<8sI")
_ALIGN = 16

LIMITS = Limits()
MAX_WORKERS = 1024
"""Whose samples one parcel may hold: a worker and its lanes."""
MAX_NAME_BYTES = 512
"""Of a worker's name."""
_SUMMARY_BYTES = MAX_WORKERS * (MAX_NAME_BYTES + 3) + 32
"""Of the beginning of a header, which is all that a server reads."""

_STATS = ("stat_train_return", "stat_test_return", "stat_train_steps", "stat_test_steps")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a trainer's memory keeps of samples, so that workers send no more."""

    info_keys: tuple[str, ...] = ()
    """Entries of `info` that rows hold."""
    with_crc: bool = False
    """Whether rows hold the workers' checksums."""

    def to_json(self) -> dict[str, Any]:
        """The wishes as what `json.dumps` takes."""
        return {"info_keys": list(self.info_keys), "with_crc": self.with_crc}

    @staticmethod
    def from_json(document: Any) -> "Wishes":
        """The wishes that `to_json` wrote.

        Raises:
            ParcelError: It is no such document.
        """
        with refusals():
            keys = expect(list, "info_keys", document["info_keys"])
            with_crc = expect(bool, "with_crc", document["with_crc"])
            return Wishes(tuple(expect(str, "an info key", key) for key in keys), with_crc)


class Summary(NamedTuple):
    """What a header begins with; a claim of the sender, which `decode` checks."""

    n_samples: int
    n_episodes_ended: int
    workers: tuple[str, ...]


class Encoder:
    """Turns Buffers into parcels.

    Args:
        wishes: What the trainer's memory keeps; None if that is not known, or not rows.
        compress: Fields (`obs`, `info`) or single leaves (`obs/image`) to compress, losslessly. Samples that
            fit no row are compressed as a whole if there is any.
        level: Of zstandard, from 1, the fastest, to 22.

    Attributes:
        wishes: As given; may be set at any time.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, wishes: Wishes | None = None, compress: Collection[str] = (), level: int = 3) -> None:
        if isinstance(compress, str):
            raise TypeError('compress must be a tuple of names, as in ("obs",), got a str')
        for name in compress:
            if name.split("/")[0] not in SAMPLE_FIELDS:
                raise ValueError(f"compress must name fields ({', '.join(SAMPLE_FIELDS)}), got {name!r}")
        if not 1 <= level <= 22:
            raise ValueError(f"level must be from 1 to 22, got {level}")
        self.wishes = wishes
        self._compress = tuple(compress)
        self._level = level
        self._known: tuple[Wishes, Layout] | None = None

    def encode(self, buffer: Buffer) -> list[bytes | memoryview]:
        """Encodes what a Buffer holds.

        Returns:
            The parts of the parcel, to be joined. Views among them are of copies, or of the samples' own
            arrays: join or send them before anybody changes those.

        Raises:
            BadSampleError: A sample holds something that cannot travel, or there are too many of them; the
                message names worker, key and type. Nothing of the Buffer is lost.
        """
        samples = buffer.memory
        with _sizes_told(len(samples)):
            kind, says, body = self._encoded(samples) if samples else ("samples", [0, None], [])
            header = packed([len(samples), *_about(buffer), kind, says])
            if len(header) > LIMITS.max_header_bytes:
                raise ParcelError(
                    f"a header must be at most {LIMITS.max_header_bytes:,} bytes, got {len(header):,}"
                )
        padding = -(_PREFIX.size + len(header)) % _ALIGN
        return [_PREFIX.pack(MAGIC, len(header)), header + bytes(padding), *body]

    def _encoded(self, samples: list[Any]) -> tuple[str, list[Any], list[Any]]:
        wishes = self.wishes  # another thread sets it
        if wishes is not None:
            try:
                return "rows", *self._rows(samples, wishes)
            except (TmrlError, ValueError, TypeError, LookupError) as reason:
                # The memory decides about them, and can say more about it.
                logger.debug("samples travel as they are: %s", reason)
        document, blobs = encode_samples(samples, LIMITS.max_depth)
        if len(document) > LIMITS.max_document_bytes:
            raise ParcelError(
                f"they need {len(document):,} bytes beside their arrays, and one parcel has "
                f"{LIMITS.max_document_bytes:,}"
            )
        if not self._compress:
            return "samples", [len(document), None], [document, *blobs]
        whole = b"".join([document, *blobs])
        return "samples", [len(document), len(whole)], [compressed(whole, self._level)]

    def _rows(self, samples: list[Any], wishes: Wishes) -> tuple[list[Any], list[Any]]:
        if self._known is not None and self._known[0] == wishes:
            try:
                return encode_rows(samples, self._known[1], self._level)
            except (TmrlError, ValueError):
                pass  # perhaps they are of another layout now
        check_lengths(samples)
        schema = infer_schema(samples, wishes.info_keys, wishes.with_crc)
        if schema is None:
            raise BadSampleError("no sample has an action yet")
        layout = Layout.of(schema, self._compress)
        encoded = encode_rows(samples, layout, self._level)
        self._known = wishes, layout
        return encoded


@contextmanager
def _sizes_told(n_samples: int) -> Generator[None]:
    """Tells the worker what its receiver would refuse."""
    try:
        yield
    except ParcelError as error:
        raise BadSampleError(
            f"{n_samples} samples are too much for one parcel: {error}; make arrays of lists, or send "
            "the Buffer more often; nothing was sent"
        ) from error


def _about(buffer: Buffer) -> list[Any]:
    """Workers, records and statistics of a Buffer."""
    workers = set(map(worker_of, buffer.memory)) | {record.worker for record in buffer.episodes}
    check_names(workers)
    episodes = [
        [r.worker, float(r.episode_return), int(r.length), bool(r.is_test), int(r.policy_version)]
        for r in buffer.episodes
    ]
    returns = [float(getattr(buffer, name)) for name in _STATS[:2]]
    steps = [int(getattr(buffer, name)) for name in _STATS[2:]]
    return [len(episodes), sorted(workers), episodes, [*returns, *steps], buffer.dropped]


def summary(parcel: bytes | memoryview, limits: Limits = LIMITS) -> Summary:
    """What the header of a parcel begins with; neither its rest nor the body is looked at.

    Raises:
        ParcelError: It is no parcel.
    """
    with refusals():
        header, _ = _opened(parcel, limits)
        start = Beginning(header[:_SUMMARY_BYTES], MAX_NAME_BYTES)
        start.length()
        n_samples, n_ended = start.value(), start.value()
        n_workers = number("workers", start.length(), 0, MAX_WORKERS)
        return _summary(n_samples, n_ended, [start.value() for _ in range(n_workers)], limits)


def decode(parcel: bytes | memoryview, limits: Limits = LIMITS) -> ChunkBuffer:
    """The Buffer that was encoded.

    Args:
        parcel: The bytes. Rows refer to them: they must not change any more.
        limits: The most that it may be.

    Raises:
        ParcelError: It is no parcel, a damaged or a hostile one. Nothing of it was run.
    """
    with refusals():
        packed_header, body = _opened(parcel, limits)
        header = _header(unpacked(packed_header), limits)
        n = header.summary.n_samples
        parts: list[RowPart | list[Any]] = []
        if header.kind == "rows":
            parts += decode_rows(header.says, body, n, limits)
        elif header.kind == "samples":
            parts += [_samples(header.says, body, n, limits)]
        else:
            raise ParcelError(f"a parcel must hold rows or samples, got {header.kind!r}")
        body.finish()
        buffer = ChunkBuffer(parts)
        buffer.episodes = header.episodes
        buffer.dropped = header.dropped
        for name, value in zip(_STATS, header.stats, strict=True):
            setattr(buffer, name, value)
        check_claimed(header.summary.workers, buffer)
        return buffer


def _samples(says: list[Any], body: Body, n_samples: int, limits: Limits) -> list[Any]:
    n_document, n_whole = says
    if not n_samples:
        return []
    if n_whole is None:
        return decode_samples(body.take(number("samples", n_document), "samples"), body, n_samples, limits)
    number("samples", n_whole, 0, limits.max_bytes)
    whole = Body(memoryview(decompressed(body.rest(), n_whole, "samples")))
    samples = decode_samples(whole.take(number("samples", n_document), "samples"), whole, n_samples, limits)
    whole.finish()
    return samples


@dataclass(frozen=True, slots=True)
class _Header:
    summary: Summary
    episodes: list[EpisodeRecord]
    stats: list[Any]
    dropped: int
    kind: str
    says: list[Any]


def _opened(parcel: bytes | memoryview, limits: Limits) -> tuple[memoryview, Body]:
    """The header, packed, and what follows it."""
    view = memoryview(parcel).cast("B")
    if len(view) > limits.max_bytes:
        raise ParcelError(f"a parcel must be at most {limits.max_bytes:,} bytes, got {len(view):,}")
    body = Body(view)
    magic, n_header = _PREFIX.unpack(body.take(_PREFIX.size, "a parcel"))
    if magic != MAGIC:
        raise ParcelError(
            f"a parcel must begin with {MAGIC!r}, got {magic!r}; is the sender of this version?"
        )
    if n_header > limits.max_header_bytes:
        raise ParcelError(f"a header must be at most {limits.max_header_bytes:,} bytes, got {n_header:,}")
    header = body.take(n_header, "the header")
    body.take(-(_PREFIX.size + n_header) % _ALIGN, "the padding")
    return header, body


def _header(document: Any, limits: Limits) -> _Header:
    n, n_ended, workers, episodes, stats, dropped, kind, says = expect(list, "a header", document)
    claim = _summary(n, n_ended, expect(list, "workers", workers), limits)
    records = [_episode(*record) for record in expect(list, "episodes", episodes)]
    if n_ended != len(records):
        raise ParcelError(f"a parcel must hold the {n_ended} episodes that it says, got {len(records)}")
    train_return, test_return, train_steps, test_steps = stats
    for value in (train_return, test_return):
        expect(float, "a return", value)
    for value in (train_steps, test_steps):
        number("steps", value)
    number("dropped", dropped)
    says = expect(list, "contents", says)
    return _Header(claim, records, stats, dropped, expect(str, "kind", kind), says)


def _summary(n_samples: Any, n_ended: Any, workers: list[Any], limits: Limits) -> Summary:
    number("samples", n_samples, 0, limits.max_samples)
    number("episodes", n_ended)
    names = tuple(expect(str, "a worker", name) for name in workers)
    check_names(names)
    return Summary(n_samples, n_ended, names)


def check_names(workers: Collection[str]) -> None:
    """Checks whose samples a parcel holds, for their number and their length.

    Raises:
        ParcelError: They are too many, or one is too long.
    """
    number("workers", len(workers), 0, MAX_WORKERS)
    if longest := max(workers, key=len, default=""):
        number("bytes of a worker's name", len(longest.encode()), 0, MAX_NAME_BYTES)


def _episode(worker: Any, episode_return: Any, length: Any, is_test: Any, version: Any) -> EpisodeRecord:
    return EpisodeRecord(
        expect(str, "a worker", worker),
        expect(float, "a return", episode_return),
        number("a length", length),
        expect(bool, "is_test", is_test),
        number("a version", version),
    )
