"""Messages and frames: what fits comes back, what does not is refused with a reason."""

import random
import struct

import msgpack
import pytest

from tmrl.errors import ProtocolError
from tmrl.networking.messages import (
    Ack,
    Ask,
    Hello,
    Nack,
    Policy,
    Put,
    Refuse,
    Report,
    Skip,
    Subscribe,
    Welcome,
    Wish,
    from_frame,
    to_frame,
)

MESSAGES = [
    Hello("robot", 1 << 60, 5),
    Welcome(7, 8, {"info_keys": ["success"], "with_crc": False}),
    Welcome(7, 8, None),
    Skip(3, (20, 0, 5)),
    Ack(9, 7, 25),
    Nack(4),
    Wish([1, 2]),
    Refuse("no", is_final=False),
    Subscribe("robot", 3),
    Ask(),
    Report(b"{}"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message):
    assert from_frame(to_frame(message)) == message


def test_a_put_comes_back_with_its_parcels():
    put = from_frame(to_frame(Put(4, (2, 0, 3), 6), [b"ab", b"", b"cde"]))
    assert isinstance(put, Put)
    assert (put.first, put.stop, put.backlog) == (4, 7, 6)
    assert [bytes(parcel) for parcel in put.parcels()] == [b"ab", b"", b"cde"]


def test_a_policy_comes_back_with_its_body():
    policy = from_frame(to_frame(Policy(3, 99), [b"weights"]))
    assert isinstance(policy, Policy)
    assert (policy.version, policy.digest, bytes(policy.body)) == (3, 99, b"weights")


def framed(*values, body=b""):
    header = msgpack.packb(list(values))
    return struct.pack("<I", len(header)) + header + body


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "a frame must be 4 to"),
        (struct.pack("<I", 10 << 30 & 0xFFFFFFFF) + b"x", "a header must be at most 1,048,576 bytes"),
        (struct.pack("<I", 50) + b"x", "in its frame of 5"),
        (struct.pack("<I", 1) + b"\xc1", "a header must be msgpack"),
        (framed(), "a list that begins with the number of its message"),
        (framed("Hello"), "a list that begins with the number of its message"),
        (framed(99), "one of 12 kinds, got 99"),
        (framed(0, "robot", 1), "a Hello must have 4 fields, got 2"),
        (framed(0, "robot", -1, 0, 1), "epoch of a Hello must be a sensible int"),
        (framed(0, "robot", 1.5, 0, 1), "epoch of a Hello must be a sensible int"),
        (framed(0, "robot", True, 0, 1), "epoch of a Hello must be a sensible int"),
        (framed(0, "r" * 5000, 1, 0, 1), "name of a Hello must be a sensible str"),
        (framed(2, 0, [], 0), "sizes of a Put must be a sensible tuple"),
        (framed(2, 0, [1] * 20_000, 0), "sizes of a Put must be a sensible tuple"),
        (framed(2, 0, [5, 5], 0, body=b"short"), "a Put must have the 10 bytes that it says, got 5"),
        (framed(4, 1, 1, 0, body=b"more"), "the message Ack must have no body, got 4 bytes"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(frame, reason):
    with pytest.raises(ProtocolError, match=reason):
        from_frame(frame)


def test_a_frame_that_is_too_large_is_refused_unread(monkeypatch):
    monkeypatch.setattr("tmrl.networking.messages.MAX_FRAME_BYTES", 100)
    with pytest.raises(ProtocolError, match="a frame must be 4 to 100 bytes, got 101"):
        from_frame(bytes(101))


@pytest.mark.parametrize("n_cases", [10_000, pytest.param(1_000_000, marks=pytest.mark.stress)])
def test_mutated_frames_are_messages_or_refused(n_cases):
    """Whatever a hostile peer sends, nothing but a message or a ProtocolError comes of it."""
    rng = random.Random(0)
    frames = [to_frame(message) for message in MESSAGES] + [to_frame(Put(4, (2, 3)), [b"ab", b"cde"])]
    n_refused = 0
    for _ in range(n_cases):
        frame = bytearray(rng.choice(frames))
        for _ in range(rng.randint(1, 4)):
            kind = rng.randrange(3)
            if kind == 0 and frame:
                frame[rng.randrange(len(frame))] = rng.randrange(256)
            elif kind == 1:
                del frame[rng.randint(0, len(frame)) :]
            else:
                frame += rng.randbytes(rng.randint(1, 8))
        try:
            from_frame(bytes(frame))
        except ProtocolError:
            n_refused += 1
    assert n_refused > n_cases // 2
