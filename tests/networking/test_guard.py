"""Guards: how fast a connection is read, how many there may be, and what is said of whom."""

import asyncio
import time

import pytest

from tmrl.errors import ProtocolError
from tmrl.networking import background, guard
from tmrl.networking.guard import Complaints, Doors, Paced
from tmrl.networking.transport import Peer


class Endless:
    """A connection on which frames never end."""

    peer = Peer("there", "robot", "worker")

    async def send(self, frame):
        raise AssertionError

    async def receive(self):
        await asyncio.sleep(0)
        return b"frame"

    async def close(self):
        raise AssertionError


def received_in(seconds):
    async def count():
        paced, n_frames, until = Paced(Endless()), 0, time.monotonic() + seconds
        while time.monotonic() < until:
            await paced.receive()
            n_frames += 1
        return n_frames

    return background.run(count(), 30)


def test_a_connection_is_read_no_faster_than_its_pace_beyond_a_burst(monkeypatch):
    monkeypatch.setattr(guard, "FRAMES_PER_S", 200.0)
    assert 200 <= received_in(0.5) <= 200 + 100 + 5  # the burst of a second, and half a second


def test_each_part_of_a_large_frame_counts_as_a_frame(monkeypatch):
    monkeypatch.setattr(guard, "FRAMES_PER_S", 200.0)
    monkeypatch.setattr(guard, "PART_BYTES", 1)
    assert 40 <= received_in(0.5) <= 40 + 20 + 1  # frames of five bytes


def test_a_connection_that_was_silent_may_not_save_up_more_than_a_burst(monkeypatch):
    monkeypatch.setattr(guard, "FRAMES_PER_S", 100.0)
    monkeypatch.setattr(guard, "BURST_S", 0.1)

    async def count():
        paced = Paced(Endless())
        await paced.receive()
        await asyncio.sleep(0.5)
        began_at = time.monotonic()
        for _ in range(30):
            await paced.receive()
        return time.monotonic() - began_at

    assert background.run(count(), 30) >= 0.18


def test_a_certificate_has_only_so_many_connections_and_closed_ones_do_not_count():
    doors, robot = Doors(), Peer("there", "robot", "worker")
    opened = [doors.counted(robot) for _ in range(guard.MAX_CONNECTIONS)]
    for door in opened:
        door.__enter__()
    with pytest.raises(ProtocolError, match="a peer may have 16 connections open, and 'robot' has them"):
        doors.counted(robot).__enter__()
    with doors.counted(Peer("there", "other", "worker")), doors.counted(Peer("here")):
        pass
    opened[0].__exit__(None, None, None)
    with doors.counted(robot):
        pass


def test_each_reason_is_news_once_and_not_too_many_are():
    complaints = Complaints(max_peers=2)
    assert [complaints.is_news("a", reason) for reason in "xxyzwv"] == [True, False, True, True, True, False]
    assert complaints.is_news("b", "x")
    assert not complaints.is_news("c", "x")
    assert not complaints.is_news("a", "x")
