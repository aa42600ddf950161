"""Parcels that a peer made to do harm: refused with the reason, quickly, and before they take memory."""

import struct
import time
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
import zstandard

from makers import buffer_of, parcel_of, plain_episode, stamped, step, with_crc
from nests import Pose
from tmrl.errors import ParcelError
from tmrl.networking.parcel import MAGIC, Wishes, decode, summary
from tmrl.networking.reading import Limits
from tmrl.transition import EpisodeRecord


def rows_parcel(**kwargs: Any) -> bytes:
    mixed = [*stamped(plain_episode(3), "ann"), *plain_episode(2)]
    buffer = buffer_of(mixed)
    buffer.record_episode(EpisodeRecord("ann", 1.5, 3, False, 7))
    return parcel_of(buffer, Wishes(), **kwargs)


def remade(parcel: bytes, change: Any) -> bytes:
    """The parcel with its header changed."""
    (length,) = struct.unpack_from("<I", parcel, 8)
    header = msgpack.unpackb(parcel[12 : 12 + length], strict_map_key=False)
    body = parcel[12 + length + -(12 + length) % 16 :]
    change(header)
    return framed(header, body)


def framed(header: Any, body: bytes) -> bytes:
    packed = msgpack.packb(header)
    return MAGIC + struct.pack("<I", len(packed)) + packed + bytes(-(12 + len(packed)) % 16) + body


def set_at(*path: Any) -> Any:
    """A change of one entry of the header; the last of `path` is the new value."""

    def change(header: Any) -> None:
        *way, last, value = path
        for part in way:
            header = header[part]
        header[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at(0, 7_000_000), "samples must be from 0 to 1,000,000, got 7,000,000"),
        (set_at(0, 6), "steps and episodes must be counted from 0"),
        (set_at(0, -1), "samples must be from 0"),
        (set_at(0, True), "samples must be a int, got a bool"),
        (set_at(1, 5), "must hold the 5 episodes that it says, got 1"),
        (set_at(2, [b"x"]), "a worker must be a str, got a bytes"),
        (set_at(3, 0, 1, "x"), "a return must be a float, got a str"),
        (set_at(3, 0, [1]), "malformed"),
        (set_at(4, [1.0, 2.0, 3, -4]), "steps must be from 0"),
        (set_at(4, [1]), "malformed"),
        (set_at(6, "pickle"), "must hold rows or samples, got 'pickle'"),
        (set_at(7, 0, b"{}"), "a schema must hold obs, act, info"),
        (set_at(7, 0, b"[" * 100_000), "malformed"),
        (set_at(7, 0, bytes(1 << 19)), "a schema must be at most 262,144 bytes"),
        (set_at(7, 0, b'{"history": []}'), "a schema on the line has no history"),
        (set_at(7, 1, 0, 6, 1 << 40), "the runs must make 7 rows"),
        (set_at(7, 1, 0, 6, 0), "rows must be from 1"),
        (set_at(7, 1, [None] * 8193), "runs must be from 0 to 8,192, got 8,193"),
        (set_at(7, 1, 0, 5, -1), "policy version must be from 0"),
        (set_at(7, 1, 0, 1, -3), "epoch must be from 0"),
        (set_at(7, 1, 0, 2, -3), "step must be from 0"),
        (set_at(7, 1, 0, 3, 3), "source must be a str, got a int"),
        (set_at(7, 1, 0, 4, 1), "continues must be a bool, got a int"),
        (set_at(7, 2, [["obs", 5]]), "obs"),
        (set_at(7, 2, [["nonsense", 5]]), "must be a field of the rows, once, got 'nonsense'"),
        (set_at(7, 3, 1 << 50), "places must be from 0 to 7"),
        (set_at(7, 4, 7), "bytes, but the parcel has"),
    ],
)
def test_a_hostile_header_is_told(change: Any, message: str) -> None:
    parcel = rows_parcel()
    assert decode(remade(parcel, lambda header: None))
    with pytest.raises(ParcelError, match=message):
        decode(remade(parcel, change))


def test_bytes_too_many_or_too_few_are_told() -> None:
    parcel = rows_parcel()
    with pytest.raises(ParcelError, match="1 bytes that belong to nothing"):
        decode(parcel + b"x")
    for stop in range(len(parcel)):
        with pytest.raises(ParcelError):
            decode(parcel[:stop])
    with pytest.raises(ParcelError, match=r"a parcel must begin with .*is the sender of this version"):
        decode(b"x" + parcel[1:])
    with pytest.raises(ParcelError, match="a header must be at most"):
        summary(MAGIC + b"\xff\xff\xff\xff")
    with pytest.raises(ParcelError, match="a parcel must be at most 8 bytes"):
        decode(parcel, Limits(max_bytes=8))


def test_rows_that_say_what_cannot_be_are_told() -> None:
    parcel = rows_parcel()
    rows, tail = len(parcel) - 7 * 16 - 40, len(parcel) - 40
    assert rows % 16 == 0
    flags = bytearray(parcel)
    flags[rows + 12] = 7
    with pytest.raises(ParcelError, match="terminated must hold zeros and ones"):
        decode(flags)
    for place, value, message in [
        (tail, -1, "steps and episodes must be counted from 0"),
        (tail + 16, 9, "episodes must have from 1 to 4 rows"),
        (tail + 16, 3, "the episodes must make 4 rows, got 3"),
        (tail + 24, 99, "a row without an action must be one of 7"),
        (tail + 24, 1, "a step must have an action"),
    ]:
        changed = bytearray(parcel)
        struct.pack_into("<q", changed, place, value)
        with pytest.raises(ParcelError, match=message):
            decode(changed)


NOTHING = [b"\x90", b"\x80", b"\x91\x80", b"\x81\x00" * 500 + b"\x80", b"\xa2\xc4\x80", b"\xcd\x10\x00"]
"""What is small as msgpack and large in memory: lists, dicts, dicts in each other, a letter, a number."""


def much(nothing: bytes, n_bytes: int) -> bytes:
    """A document of about so many bytes, of nothing but that."""
    n_items = min(n_bytes // len(nothing) // 16, 250_000)
    inner = b"\xdd" + struct.pack(">I", n_items) + nothing * n_items
    n_lists = n_bytes // len(inner)
    return b"\xdd" + struct.pack(">I", n_lists) + inner * n_lists


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("where", ["header", "samples"])
def test_a_document_that_is_large_in_memory_is_refused_before_it_is(where: str, nothing: bytes) -> None:
    stats = [0.0, 0.0, 0, 0]
    if where == "header":
        header = msgpack.packb([1, 0, [], [], stats, 0, "samples"])
        octets = b"\x98" + header[1:] + much(nothing, (1 << 20) - 200)
        parcel = MAGIC + struct.pack("<I", len(octets)) + octets + bytes(-(12 + len(octets)) % 16)
    else:
        octets = much(nothing, (1 << 22) - 200)
        parcel = framed([1, 0, [], [], stats, 0, "samples", [len(octets), None]], octets)
    tracemalloc.start()
    try:
        with pytest.raises(ParcelError):
            decode(parcel)
        assert tracemalloc.get_traced_memory()[1] < 125 << 20
        tracemalloc.reset_peak()
        assert summary(parcel) == (1, 0, ())
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at(0, 7_000_000), "samples must be from 0 to 1,000,000, got 7,000,000"),
        (set_at(1, -1), "episodes must be from 0"),
        (set_at(2, ["x"] * 1025), "workers must be from 0 to 1,024, got 1,025"),
        (set_at(2, ["x" * 513]), "malformed.*513"),
        (set_at(2, [[]]), "a worker must be a str, got a list"),
        (set_at(2, [[1]]), "malformed"),
        (set_at(2, [{"a": 1}]), "malformed"),
        (set_at(2, [b"x"]), "malformed"),
        (set_at(2, 5), "malformed"),
        (set_at(0, "x" * 1000), "malformed"),
    ],
)
def test_a_server_is_told_what_a_header_cannot_begin_with(change: Any, message: str) -> None:
    with pytest.raises(ParcelError, match=message):
        summary(remade(rows_parcel(), change))


def test_a_header_that_ends_in_its_beginning_is_told() -> None:
    for header in (b"", b"\x98", b"\x98\x01\x00", b"\x98\x01\x00\x92\xa1a"):
        with pytest.raises(ParcelError, match="malformed: ValueError: it ends too early"):
            summary(MAGIC + struct.pack("<I", len(header)) + header + bytes(16))


def test_a_summary_of_the_longest_names_is_read() -> None:
    names = [f"{i:0512}" for i in range(1024)]
    parcel = framed([1, 0, names, [], [0.0, 0.0, 0, 0], 0, "samples", [1, None]], b"")
    assert summary(parcel).workers == tuple(names)


def test_no_bomb_goes_off() -> None:
    """Of what decompresses to something else than the rows need, nothing is decompressed."""
    bomb = zstandard.ZstdCompressor(3).compress(bytes(1 << 28))
    parcel = rows_parcel(compress=("obs",))
    bombs = [
        framed([1, 0, [], [], [0.0, 0.0, 0, 0], 0, "samples", [10, 1 << 20]], bomb),
        framed([1, 0, [], [], [0.0, 0.0, 0, 0], 0, "samples", [10, 1 << 60]], bomb),
        remade(parcel, set_at(0, 1_000_000)),
        framed([1, 0, [], [], [0.0, 0.0, 0, 0], 0, "samples", [1 << 40, None]], b""),
        framed([1, 0, [], [], [0.0, 0.0, 0, 0], 0, "samples", [6, None]], b"\x92\x90\x91\x91\x93\x04"),
    ]
    shapes = ([1 << 40], [1 << 31] * 32, [0, 1 << 40], [1] * 33, [-1], [1.5], [2.0**80])
    for shape in shapes:
        line = msgpack.packb([[], [[[4, "<f4", shape]]]])
        says = [len(line), None]
        bombs.append(framed([1, 0, [], [], [0.0, 0.0, 0, 0], 0, "samples", says], line))
    tracemalloc.start()
    try:
        for parcel in bombs:
            with pytest.raises(ParcelError):
                decode(parcel)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([4, "<O8", [1]], "a dtype must be one of numbers or text, got '<O8'"),
        ([4, "|V8", [1]], "a dtype must be one of numbers or text"),
        ([4, "<f16", [0]], "items of sensible size"),
        ([4, "<U99999", [0]], "items of sensible size"),
        ([4, "<f3", [0]], "malformed"),
        ([5, "<f4", b"xx"], "a scalar of dtype <f4 must be 4 bytes, got 2"),
        ([5, "<U1", b"\xff\xff\xff\xff"], "a scalar of dtype <U1"),
        ([5, "U", b"x"], "a scalar must be a str"),
        ([7, bytes(1 << 17)], "an int must be at most"),
        ([99], "there is no tag 99"),
        ([], "malformed"),
        (["x"], "a tag must be a int"),
        ([0, msgpack.ExtType(5, b"")], "no msgpack extensions, got one of code 5"),
        ([0, msgpack.Timestamp(1)], "malformed|a value must be a dict"),
        ([3, "import os", ["a"], 1], "malformed"),
        ([3, "X", ["a;b"], 1], "malformed"),
        ([3, "X", ["a", "a"], 1, 2], "malformed"),
        ([3, "X", ["__class__"], 1], "malformed"),
        ([3, "X", ["f" * (1 << 15)], 1], "a sensible number of namedtuples"),
        ([0, *([3, f"X{i}", [], []][:3] for i in range(65))], "a sensible number of namedtuples"),
        ([2, 1], "a value must be a dict"),
    ],
)
def test_hostile_samples_are_told(line: Any, message: str) -> None:
    document = msgpack.packb([[], [[line]]])
    with pytest.raises(ParcelError, match=message):
        decode(framed([1, 0, [], [], [0.0, 0.0, 0, 0], 0, "samples", [len(document), None]], document))


def test_a_deep_nest_is_told() -> None:
    for depth in (33, 400, 5000):
        document = b"\x92\x90\x91\x91" + b"\x92\x00" * depth + b"\xc0"
        header = [1, 0, [], [], [0.0, 0.0, 0, 0], 0, "samples", [len(document), None]]
        with pytest.raises(ParcelError, match=r"at most 32 deep|malformed"):
            decode(framed(header, document))


def test_samples_longer_than_the_limit_are_told() -> None:
    parcel = parcel_of(buffer_of([("x" * 100,)]))
    with pytest.raises(ParcelError, match="samples must be at most 50 bytes"):
        decode(parcel, Limits(max_document_bytes=50))
    images = [step(np.zeros((64, 64), np.uint8)) for _ in range(100)]
    small = parcel_of(buffer_of(images), Wishes(), compress=("obs",))
    with pytest.raises(ParcelError, match="rows must be at most 9,000 bytes, got 411,200"):
        decode(small, Limits(max_bytes=9_000))


def fuzz(n: int, seed: int) -> None:
    """Decodes damaged and random parcels; whatever comes of them, it is quick, small and a ParcelError."""
    rng = np.random.default_rng(seed)
    odd = [(1, [2.5, "x", {"k": (np.arange(3), b"y")}], Pose(None, torch.ones(2)), np.float64(2), 2**70)]
    whole = [
        rows_parcel(),
        rows_parcel(compress=("obs", "rew")),
        parcel_of(buffer_of(stamped(plain_episode(3)) + odd)),
        parcel_of(buffer_of(odd), compress=("obs",)),
        parcel_of(buffer_of(with_crc(stamped(plain_episode(3)))), Wishes(with_crc=True)),
    ]
    decoded = 0
    for index in range(n):
        parcel = bytearray(whole[index % len(whole)])
        for _ in range(int(rng.integers(1, 5))):
            place = int(rng.integers(len(parcel)))
            match int(rng.integers(5)):
                case 0:
                    parcel[place] ^= 1 << int(rng.integers(8))
                case 1:
                    parcel[place] = int(rng.integers(256))
                case 2:
                    del parcel[place : place + int(rng.integers(1, 9))]
                case 3:
                    parcel[place:place] = rng.bytes(int(rng.integers(1, 9)))
                case _:
                    size = int(rng.integers(1, 9))
                    parcel[place : place + size] = rng.choice([b"\xff", b"\0", b"\xdd", b"\xc6"]) * size
            if not parcel:
                break
        if index % 50 == 0:
            parcel = bytearray(MAGIC + struct.pack("<I", 64) + rng.bytes(200))
        try:
            buffer = decode(bytes(parcel))
        except ParcelError:
            continue
        decoded += 1
        assert len(buffer.memory) == summary(bytes(parcel)).n_samples
    assert 0 < decoded < n


def test_damaged_parcels_are_refused_or_read() -> None:
    start = time.monotonic()
    fuzz(10_000, seed=0)
    assert time.monotonic() - start < 200


@pytest.mark.stress
def test_very_many_damaged_parcels_are_refused_or_read() -> None:
    fuzz(1_000_000, seed=1)
