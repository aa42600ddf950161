"""Samples as bytes where no row can hold them: exact, and nothing is run when they are read.

Containers and scalars become one msgpack document, a line for each sample; the bytes of arrays follow it in
the order in which the document mentions them, without a copy of their own. A dict is a msgpack map, and all
that msgpack lacks is a list that begins with a number saying what it is:

    [LIST, *items]  [TUPLE, *items]  [ORDERED_DICT, map]  [NAMED_TUPLE, name, fields, *items]
    [ARRAY, dtype, shape]  [SCALAR, dtype, bytes or text]  [TENSOR, dtype, shape]  [BIG_INT, bytes]

A namedtuple is made anew from its name and its fields, as `tmrl.schema_json` does. An array comes back in C
order and may be written to; a tensor comes back on the CPU, without its gradient.
"""

import math
import operator
from collections import OrderedDict
from collections.abc import Sequence
from enum import IntEnum
from importlib import import_module
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import BadSampleError, ParcelError
from tmrl.nest import as_array
from tmrl.networking.documents import packed, unpacked
from tmrl.networking.reading import Body, Limits, expect, number
from tmrl.packing import worker_of
from tmrl.schema_json import namedtuple_class
from tmrl.transition import SAMPLE_FIELDS, Sample, Stamp


class Tag(IntEnum):
    """What a list says that it is."""

    LIST = 0
    TUPLE = 1
    ORDERED_DICT = 2
    NAMED_TUPLE = 3
    ARRAY = 4
    SCALAR = 5
    TENSOR = 6
    BIG_INT = 7


MAX_DIMS = 32
MAX_ITEM_BYTES = 1 << 16
MAX_NAMED_TUPLES = 64
"""Classes of them in one parcel: making one takes time."""
_KINDS = "biufcSU"
_PLAIN = frozenset((type(None), bool, float, str, bytes))
_KEYS = frozenset((type(None), bool, int, float, str, bytes))
_REMEDY = (
    "a worker sends arrays, tensors, numbers, text, bytes, None, and dicts, lists and tuples of them: "
    "convert it, or leave it out, in a sample_compressor or a wrapper of the environment"
)


def encode_samples(samples: Sequence[Any], max_depth: int) -> tuple[bytes, list[Any]]:
    """Encodes samples of any kind.

    Returns:
        The document, and what follows it: bytes, or views of the samples' arrays.

    Raises:
        BadSampleError: A sample holds something that cannot travel; the message names worker, key and type.
    """
    streams: dict[tuple[str, int, str, int], int] = {}
    blobs: list[Any] = []
    lines: list[Any] = []
    for index, sample in enumerate(samples):
        try:
            values = _plain(tuple(sample) if type(sample) is Sample else sample, max_depth, blobs)
        except _Refused as refused:
            _refuse(samples, index, refused)
        lines.append(_line(getattr(sample, "stamp", None), values, streams))
    return packed([[list(stream) for stream in streams], lines]), blobs


def _line(stamp: Stamp | None, values: Any, streams: dict[tuple[str, int, str, int], int]) -> list[Any]:
    if stamp is None:
        return [values]
    epoch, version = operator.index(stamp.epoch), operator.index(stamp.policy_version)
    stream = streams.setdefault((stamp.worker, epoch, stamp.source, version), len(streams))
    return [values, stream, *map(operator.index, (stamp.step, stamp.episode, stamp.episode_step))]


class _Refused(Exception):  # noqa: N818
    """Carries what cannot travel up to where the sample is known; each container adds its key."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[Any] = []


def _refuse(samples: Sequence[Any], index: int, refused: _Refused) -> NoReturn:
    path = list(reversed(refused.path))
    name = "sample"
    if path:
        is_six = isinstance(path[0], int) and len(samples[index]) == len(SAMPLE_FIELDS)
        name = SAMPLE_FIELDS[path[0]] if is_six else f"sample[{path[0]!r}]"
        name += "".join(f"[{key!r}]" for key in path[1:])
    raise BadSampleError(
        f"worker {worker_of(samples[index])!r}, sample {index} of {len(samples)}: {name}: {refused.reason}; "
        f"{_REMEDY}; nothing was sent"
    )


def _plain(value: Any, depth: int, blobs: list[Any]) -> Any:
    """A value as what msgpack holds; the bytes of arrays go to `blobs`."""
    kind = type(value)
    if kind is np.ndarray:
        return _array(value, blobs)
    if kind in _PLAIN or kind is int or issubclass(kind, np.generic):
        return _scalar(value)
    if kind.__module__.split(".")[0] == "torch" and hasattr(kind, "detach"):
        return _tensor(value, blobs)
    if not depth:
        raise _Refused("containers within containers, too deep or endless")
    return _container(value, depth, blobs)


def _container(value: Any, depth: int, blobs: list[Any]) -> Any:
    kind = type(value)
    if kind is dict:
        return _mapping(value, depth, blobs)
    if kind is OrderedDict:
        return [Tag.ORDERED_DICT, _mapping(value, depth, blobs)]
    if kind is list:
        return [Tag.LIST, *_items(value, depth, blobs)]
    if kind is tuple:
        return [Tag.TUPLE, *_items(value, depth, blobs)]
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        fields = list(cast("Any", kind)._fields)
        return [Tag.NAMED_TUPLE, kind.__name__, fields, *_items(value, depth, blobs)]
    raise _Refused(f"a {kind.__module__}.{kind.__qualname__}".replace("builtins.", ""))


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        _encodable(value)
    if isinstance(value, np.str_ | np.bytes_):  # their bytes say nothing of zeros at the end
        return [Tag.SCALAR, value.dtype.kind, value.item()]
    if isinstance(value, np.generic):
        return [Tag.SCALAR, _dtype_of(value), value.tobytes()]
    return _integer(value) if type(value) is int else value


def _encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Refused("a str with lone surrogates") from None


def _integer(value: int) -> Any:
    if -(1 << 63) <= value < 1 << 64:
        return value
    if value.bit_length() >= 8 * MAX_ITEM_BYTES:
        raise _Refused("an int of astronomic size")
    return [Tag.BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)]


def _dtype_of(value: Any) -> str:
    dtype = value.dtype
    if dtype.kind not in _KINDS or dtype.char in "gG" or dtype.itemsize > MAX_ITEM_BYTES:
        raise _Refused(f"a {type(value).__name__} of dtype {dtype}")
    return dtype.str


def _array(array: NDArray[Any], blobs: list[Any]) -> list[Any]:
    dtype = _dtype_of(array)
    if array.ndim > MAX_DIMS:
        raise _Refused(f"an array of more than {MAX_DIMS} dimensions")
    # Dates apart, every dtype has a view as bytes; one that is not contiguous is copied.
    blobs.append(array.reshape(-1).view(np.uint8) if array.size and array.dtype.itemsize else b"")
    return [Tag.ARRAY, dtype, list(array.shape)]


def _tensor(tensor: Any, blobs: list[Any]) -> list[Any]:
    try:
        array, is_bfloat16 = as_array(tensor)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _Refused(f"a {type(tensor).__name__} that is no array ({error})") from None
    _, dtype, shape = _array(np.asarray(array), blobs)
    return [Tag.TENSOR, "bfloat16" if is_bfloat16 else dtype, shape]


def _mapping(value: Any, depth: int, blobs: list[Any]) -> dict[Any, Any]:
    parts: dict[Any, Any] = {}
    for key, part in value.items():
        try:
            _check_key(key)
            parts[key] = _plain(part, depth - 1, blobs)
        except _Refused as refused:
            refused.path.append(key)
            raise
    return parts


def _check_key(key: Any) -> None:
    if type(key) not in _KEYS or type(_scalar(key)) not in _KEYS:
        raise _Refused(f"a key that is a {type(key).__name__} of another kind than numbers and text")


def _items(value: Any, depth: int, blobs: list[Any]) -> list[Any]:
    parts: list[Any] = []
    for index, part in enumerate(value):
        try:
            parts.append(_plain(part, depth - 1, blobs))
        except _Refused as refused:
            refused.path.append(index)
            raise
    return parts


def decode_samples(document: memoryview, blobs: Body, n_samples: int, limits: Limits) -> list[Any]:
    """The samples that `encode_samples` encoded; their arrays are copies.

    Raises:
        ParcelError: It is no such document.
    """
    if len(document) > limits.max_document_bytes:
        raise ParcelError(
            f"samples must be at most {limits.max_document_bytes:,} bytes, got {len(document):,}; send "
            "Buffers more often"
        )
    streams, lines = unpacked(document)
    streams = [_stream(stream) for stream in expect(list, "streams", streams)]
    if len(expect(list, "samples", lines)) != n_samples:
        raise ParcelError(f"a parcel of {n_samples:,} samples must hold as many, got {len(lines):,}")
    reader = _Reader(blobs, limits.max_depth)
    return [_sample(reader, expect(list, "a sample", line), streams) for line in lines]


def _stream(stream: Any) -> tuple[str, int, str, int]:
    worker, epoch, source, version = stream
    return (
        expect(str, "worker", worker),
        number("epoch", epoch),
        expect(str, "source", source),
        number("policy version", version),
    )


def _sample(reader: "_Reader", line: list[Any], streams: list[tuple[str, int, str, int]]) -> Any:
    values = reader.value(line[0], reader.max_depth)
    if len(line) == 1:
        return values
    _, stream, *steps = line
    worker, epoch, source, version = streams[number("stream", stream)]
    step, episode, episode_step = (number("a step", step) for step in steps)
    stamp = Stamp(worker, epoch, step, episode, episode_step, source, version)
    return Sample(expect(tuple, "a sample", values), stamp)


class _Reader:
    """Makes values of what msgpack read; takes the bytes of arrays from where they stand."""

    def __init__(self, blobs: Body, max_depth: int) -> None:
        self._blobs = blobs
        self._named_tuples: dict[tuple[Any, ...], Any] = {}
        self.max_depth = max_depth

    def value(self, found: Any, depth: int) -> Any:
        kind = type(found)
        if kind in _PLAIN or kind is int:
            return found
        if kind is list:
            return self._tagged(found, depth)
        if not depth:
            raise ParcelError(f"containers must be at most {self.max_depth} deep")
        return self._mapping(expect(dict, "a value", found), depth)

    def _mapping(self, found: dict[Any, Any], depth: int) -> dict[Any, Any]:
        if not set(map(type, found)) <= _KEYS:
            raise ParcelError("a key must be a number, text, bytes or None")
        return {key: self.value(part, depth - 1) for key, part in found.items()}

    def _tagged(self, found: list[Any], depth: int) -> Any:
        tag, *rest = found
        match number("a tag", tag):
            case Tag.ARRAY:
                return self._array(*rest)
            case Tag.SCALAR:
                return _read_scalar(*rest)
            case Tag.TENSOR:
                return self._tensor(*rest)
            case Tag.BIG_INT:
                return _big_int(*rest)
            case _ if not depth:
                raise ParcelError(f"containers must be at most {self.max_depth} deep")
            case Tag.LIST:
                return [self.value(part, depth - 1) for part in rest]
            case Tag.TUPLE:
                return tuple(self.value(part, depth - 1) for part in rest)
            case Tag.ORDERED_DICT:
                (mapping,) = rest
                return OrderedDict(self._mapping(expect(dict, "a value", mapping), depth))
            case Tag.NAMED_TUPLE:
                name, fields, *parts = rest
                kind = self._named_tuple(name, fields)
                return kind(*(self.value(part, depth - 1) for part in parts))
            case _:
                raise ParcelError(f"there is no tag {tag}")

    def _named_tuple(self, name: Any, fields: Any) -> Any:
        key = (expect(str, "a namedtuple's name", name), *expect(list, "fields", fields))
        if key not in self._named_tuples:
            if len(self._named_tuples) == MAX_NAMED_TUPLES or len(key) > 256 or sum(map(len, key)) > 1 << 14:
                raise ParcelError("a parcel must hold a sensible number of namedtuples and of their fields")
            self._named_tuples[key] = namedtuple_class(key[0], key[1:])
        return self._named_tuples[key]

    def _array(self, dtype_name: Any, shape: Any) -> NDArray[Any]:
        dtype = _dtype(dtype_name)
        lengths = [number("a dimension", length) for length in expect(list, "a shape", shape)]
        if len(lengths) > MAX_DIMS:
            raise ParcelError(f"an array must have at most {MAX_DIMS} dimensions, got {len(lengths)}")
        n_bytes = math.prod(lengths) * dtype.itemsize
        blob = self._blobs.take(n_bytes, f"an array of shape {tuple(lengths)} and dtype {dtype.str}")
        if not n_bytes:
            if max(lengths, default=0) >= 1 << 31:
                raise ParcelError(f"an empty array must have a sensible shape, got {tuple(lengths)}")
            return np.empty(lengths, dtype)
        return _checked(np.frombuffer(blob, dtype).reshape(lengths).copy())

    def _tensor(self, dtype_name: Any, shape: Any) -> Any:
        is_bfloat16 = dtype_name == "bfloat16"
        array = self._array("<u2" if is_bfloat16 else dtype_name, shape)
        try:
            torch = import_module("torch")  # the worker had it; who has no tensors does without
        except ImportError:
            raise ParcelError("the samples hold torch tensors, and torch is not installed here") from None
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if is_bfloat16 else tensor


def _dtype(name: Any) -> np.dtype[Any]:
    expect(str, "a dtype", name)
    if len(name) > 10 or name[:1] not in {"<", ">", "|"} or name[1:2] not in set(_KINDS):
        raise ParcelError(f"a dtype must be one of numbers or text, got {name!r}")
    if not (name[2:].isascii() and name[2:].isdigit()):
        raise ParcelError(f"a dtype must be one of numbers or text, got {name!r}")
    dtype = np.dtype(name)
    if dtype.char in "gG" or dtype.itemsize > MAX_ITEM_BYTES:
        raise ParcelError(f"a dtype must have items of sensible size, got {name!r}")
    return dtype


def _checked(array: NDArray[Any]) -> NDArray[Any]:
    """The array, if it is no text or all of its characters exist; truth values must be 0 or 1."""
    if array.dtype.kind == "U":
        codes = array.reshape(-1).view(array.dtype.byteorder.replace("|", "=") + "u4")
        if codes.max(initial=0) > 0x10FFFF:
            raise ParcelError("an array of text must hold characters, got numbers beyond them")
    if array.dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
        raise ParcelError("an array of truth values must hold zeros and ones")
    return array


def _read_scalar(dtype_name: Any, data: Any) -> Any:
    if dtype_name == "S":
        return np.bytes_(expect(bytes, "a scalar", data))
    if dtype_name == "U":
        return np.str_(expect(str, "a scalar", data))
    dtype = _dtype(dtype_name)
    if len(expect(bytes, "a scalar", data)) != dtype.itemsize or dtype.kind in "SU":
        raise ParcelError(f"a scalar of dtype {dtype.str} must be {dtype.itemsize} bytes, got {len(data)}")
    return _checked(np.frombuffer(data, dtype))[0]


def _big_int(data: Any) -> int:
    if len(expect(bytes, "an int", data)) > MAX_ITEM_BYTES:
        raise ParcelError(f"an int must be at most {MAX_ITEM_BYTES:,} bytes, got {len(data):,}")
    return int.from_bytes(data, "little", signed=True)
