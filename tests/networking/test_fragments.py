"""Fragments: a large frame comes whole, or is refused before it is held."""

import asyncio
import struct

import pytest

from tmrl.errors import ProtocolError
from tmrl.networking import background, fragments
from tmrl.networking.fragments import HEARD_BY_PEERS, HEARD_BY_SERVERS, Turns, frame_of, messages_of
from tmrl.networking.transport import SERVICES, Peer

MOST = 100


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(fragments, "PART_BYTES", 10)


def announced(n_bytes, n_sent=6):
    """The first message of a frame of so many bytes."""
    return struct.pack("<I", (1 << 31) + n_bytes) + bytes(n_sent)


def heard(messages, turn=None):
    """The frame that messages make, and how many of them were read."""
    left = list(messages)

    async def read():
        if not left:
            await asyncio.sleep(60)
        return left.pop(0)

    async def hear():
        return await frame_of(read, MOST, turn or asyncio.Lock())

    return background.run(hear(), 30), len(messages) - len(left)


@pytest.mark.parametrize("n_bytes", [0, 1, 4, 9, 10, 11, 20, 21, 99, 100])
def test_a_frame_of_any_length_comes_back(n_bytes):
    frame = bytes(range(n_bytes))
    messages = list(messages_of(frame))
    assert max(map(len, messages)) <= 10
    assert heard(messages) == (frame, len(messages))


def test_a_small_frame_is_sent_as_it_is_and_not_copied():
    frame = bytes(10)
    (message,) = messages_of(frame)
    assert message is frame
    assert heard([frame])[0] is frame


@pytest.mark.parametrize("n_bytes", [101, 10**9, (1 << 31) - 1])
def test_a_frame_that_is_too_long_is_refused_before_a_part_of_it_was_read(n_bytes):
    n_read = 0

    async def read():
        nonlocal n_read
        n_read += 1
        return announced(n_bytes)

    with pytest.raises(
        ProtocolError, match=f"a frame must be at most 100 bytes here, got one of {n_bytes:,}"
    ):
        background.run(frame_of(read, MOST, asyncio.Lock()), 30)
    assert n_read == 1


def test_a_single_message_that_is_too_long_is_refused():
    with pytest.raises(ProtocolError, match="a frame must be at most 100 bytes here, got one of 101"):
        heard([bytes(101)])


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([10, 8], "got one of 8 where 9 were due"),
        ([10, 10], "got one of 10 where 9 were due"),
        ([19], "got one of 19 where 19 were due"),
        ([1] * 19, "got one of 1 where 19 were due"),
        ([0], "got one of 0 where 19 were due"),
    ],
    ids=["fewer", "more", "parts too large", "crumbs", "nothing"],
)
def test_other_bytes_than_were_announced_are_refused(parts, reason):
    with pytest.raises(ProtocolError, match=f"a frame of 25 bytes must come in messages of 10.*{reason}"):
        heard([announced(25), *map(bytes, parts)])


@pytest.mark.parametrize("n_sent", [0, 5, 7])
def test_an_announcement_that_does_not_fill_its_message_is_refused(n_sent):
    with pytest.raises(ProtocolError, match=f"got one of {4 + n_sent} where 29 were due"):
        heard([announced(25, n_sent), bytes(10)])


def test_an_announcement_of_nothing_is_a_frame_of_nothing():
    assert heard([announced(0, 0)])[0] == b""


def test_a_frame_that_does_not_go_on_is_refused(monkeypatch):
    monkeypatch.setattr(fragments, "PART_TIMEOUT_S", 0.05)
    with pytest.raises(ProtocolError, match=r"must go on within 0.05 s, but 9 of its 25 bytes are due"):
        heard([announced(25), bytes(10)])


def test_a_peer_has_one_frame_in_the_making_and_keeps_nobody_else_waiting():
    turns = Turns()
    first, second = turns.of(Peer("here", "robot")), turns.of(Peer("there", "robot"))
    assert first is second
    background.run(first.acquire())
    with pytest.raises(TimeoutError):
        background.run(_alone([announced(11), bytes(5)], second), 0.2)
    assert heard([bytes(5)], second)[0] == bytes(5)
    for other in (Peer("here", "other"), Peer("here")):
        assert heard([announced(11), bytes(5)], turns.of(other))[0] == bytes(11)


async def _alone(messages, turn):
    left = iter(messages)

    async def read():
        return next(left)

    return await frame_of(read, MOST, turn)


def test_every_service_has_its_limits():
    assert set(HEARD_BY_SERVERS) == set(HEARD_BY_PEERS) == set(SERVICES)
