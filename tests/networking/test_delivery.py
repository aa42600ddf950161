"""Delivery without a network: every parcel arrives exactly once, or is counted as dropped."""

import random
import threading
import time

import pytest

from networking.numbered import numbered, ram_outbox
from tmrl.errors import ProtocolError, StalledError
from tmrl.networking.delivery import Ledger, Position, Sender, news_in
from tmrl.networking.messages import Ack, Nack, Put, Skip, Welcome
from tmrl.networking.parcel import Encoder, summary
from tmrl.networking.record_log import HEAD_BYTES

ENCODER = Encoder()


def put(outbox, first, n_samples):
    return outbox.put(ENCODER.encode(numbered(outbox.name, first, n_samples)))


def size_of(n_samples, first=100):
    return HEAD_BYTES + sum(map(len, ENCODER.encode(numbered("robot", first, n_samples))))


class Lossy:
    """The naive other end: takes what a sender says, in memory, and forgets connections at random."""

    def __init__(self, outbox):
        self.outbox = outbox
        self.ledger = Ledger()
        self.arrived = []
        self.skipped = 0
        self.durable = 0

    def connect(self, window):
        sender = Sender(self.outbox)
        hello = sender.hello()
        position = self.ledger.greet(hello.name, hello.epoch, hello.first)
        return sender, position, sender.welcome(Welcome(position.expected, window))

    def take(self, position, message, parcels):
        if isinstance(message, Skip):
            if message.first > position.expected:
                return Nack(position.expected)
            counts = message.samples[position.expected - message.first :]
            self.skipped += sum(counts)
            position.skipped += sum(counts)
            position.expected = max(position.expected, message.stop)
        else:
            news = news_in(position, Put(message.first, message.sizes, 0, b"".join(parcels)))
            if news is None:
                return Nack(position.expected)
            for number, parcel in news:
                self.arrived.append((number, bytes(parcel)))
                position.expected = number + 1
        return position.stands


@pytest.mark.parametrize("seed", range(30))
def test_with_cuts_and_drops_everything_arrives_once_or_is_counted(seed):
    """Conservation: samples put are samples arrived and samples noted as dropped, and none of them twice."""
    rng = random.Random(seed)
    outbox = ram_outbox("robot", max_bytes=size_of(10) * 6, when_full="drop")
    other = Lossy(outbox)
    sender, position, _ = other.connect(3)
    n_put = 0
    replies = []
    for _ in range(400):
        action = rng.random()
        if action < 0.45:
            n = rng.randint(1, 12)
            put(outbox, n_put, n)
            n_put += n
        elif action < 0.85:
            sent = sender.next_message(rng.choice((1, 4000, 100_000)), outbox.sync())
            if sent is not None and rng.random() < 0.9:  # else lost with its connection
                replies.append(other.take(position, *sent))
            elif sent is not None:
                replies.clear()
                sender, position, _ = other.connect(3)
        elif action < 0.95 and replies:
            reply = replies.pop(0)
            if isinstance(reply, Ack) and rng.random() < 0.7:
                position.durable = reply.received
                reply = Ack(reply.received, position.durable, reply.skipped)
            sender.hear(reply)
        else:
            replies.clear()
            sender, position, _ = other.connect(rng.randint(1, 4))
    sender, position, _ = other.connect(4)
    sender.hear(Ack(position.expected, position.expected, position.skipped))
    for _ in range(10_000):
        sent = sender.next_message(1 << 20, outbox.sync())
        if sent is None:
            break
        reply = other.take(position, *sent)
        sender.hear(Ack(reply.received, reply.received, reply.skipped))
    numbers = [number for number, _ in other.arrived]
    assert numbers == sorted(set(numbers))
    n_arrived = sum(_samples_in(parcel) for _, parcel in other.arrived)
    assert n_arrived + other.skipped == n_put
    assert outbox.noted_drops == other.skipped
    assert outbox.settled == outbox.next


def _samples_in(parcel):
    return summary(parcel).n_samples


def test_a_full_outbox_drops_whole_episodes_the_oldest_first(caplog):
    outbox = ram_outbox("robot", max_bytes=size_of(5) * 4, when_full="drop")
    for first in range(0, 60, 5):
        put(outbox, first, 5)
    assert outbox.first > 0
    assert outbox.dropped_samples == 5 * outbox.first
    assert "the outbox of 'robot' is full" in caplog.text
    assert outbox.dropped_from(0) == (5 * outbox.first,) + (0,) * (outbox.first - 1)  # none was ever sent


def test_a_full_outbox_that_blocks_goes_on_when_there_is_room():
    outbox = ram_outbox("robot", max_bytes=size_of(5) * 2)
    for first in (100, 105):
        put(outbox, first, 5)
    blocked = threading.Thread(target=put, args=(outbox, 110, 5))
    blocked.start()
    time.sleep(0.05)
    assert blocked.is_alive()
    outbox.settle(1)
    blocked.join(5)
    assert not blocked.is_alive()
    assert outbox.next == 3


def test_a_full_outbox_that_blocks_too_long_is_an_error():
    outbox = ram_outbox("robot", max_bytes=size_of(5), wait_limit_s=0.05)
    put(outbox, 100, 5)
    with pytest.raises(StalledError, match=r"room in the outbox of 'robot'.*0 of 1 parcels safe"):
        put(outbox, 105, 5)


def test_a_closed_outbox_takes_nothing():
    outbox = ram_outbox("robot")
    outbox.close()
    with pytest.raises(ValueError, match="the outbox of 'robot' is closed"):
        put(outbox, 0, 5)


def test_two_lives_that_begin_at_the_same_time_are_two(monkeypatch):
    """A clock that is set back, or that a robot begins anew at each start, must not make them one."""
    monkeypatch.setattr("time.time_ns", lambda: 7)
    monkeypatch.setattr("time.time", lambda: 7.0)
    ledger = Ledger()
    first, second = (ram_outbox("robot") for _ in range(2))
    for outbox in (first, second):
        position = ledger.greet("robot", *_life(Sender(outbox)))
        assert position.expected == 0
        position.expected = 5


def test_an_outbox_that_knows_less_than_the_receiver_begins_a_new_epoch(caplog):
    """After a power cut its numbers would be given twice, and new parcels taken for duplicates."""
    outbox = ram_outbox("robot")
    put(outbox, 0, 5)
    sender = Sender(outbox)
    epoch = sender.hello().epoch
    assert not sender.welcome(Welcome(9, 8))
    assert sender.hello().epoch != epoch
    assert "begins a new epoch" in caplog.text
    assert Ledger().greet("robot", *_life(sender)).expected == 0


def _life(sender):
    hello = sender.hello()
    return hello.epoch, hello.first


def test_no_more_than_the_window_is_in_flight():
    outbox = ram_outbox("robot")
    for first in range(0, 50, 5):
        put(outbox, first, 5)
    sender = Sender(outbox)
    sender.welcome(Welcome(0, 3))
    sent = [sender.next_message(1, outbox.sync()) for _ in range(5)]
    assert [message is not None for message in sent] == [True, True, True, False, False]
    sender.hear(Ack(1, 0))
    assert sender.next_message(1, outbox.sync()) is not None


def test_what_is_not_on_the_disk_is_not_told():
    outbox = ram_outbox("robot")
    for first in range(0, 20, 5):
        put(outbox, first, 5)
    sender = Sender(outbox)
    sender.welcome(Welcome(0, 8))
    message, _ = sender.next_message(1 << 20, before=2)
    assert message.stop == 2
    assert sender.next_message(1 << 20, before=2) is None


def test_a_receiver_that_claims_what_was_never_sent_is_refused():
    outbox = ram_outbox("robot")
    put(outbox, 0, 5)
    sender = Sender(outbox)
    sender.welcome(Welcome(0, 8))
    with pytest.raises(ProtocolError, match="parcel 5 was acknowledged, but only 1 were put"):
        sender.hear(Ack(5, 0))
    with pytest.raises(ProtocolError, match="parcel 9 was acknowledged"):
        sender.hear(Nack(9))


def test_a_put_that_leaves_out_a_number_is_not_taken():
    position = Position(epoch=1, expected=3, durable=3)
    assert news_in(position, Put(4, (1,), 0, b"x")) is None
    assert news_in(position, Put(2, (1, 1), 0, b"xy")) == [(3, b"y")]
    assert position.duplicates == 1


def test_a_ledger_that_lost_parcels_says_so(caplog):
    ledger = Ledger()
    ledger.greet("robot", 1, 0)
    position = ledger.greet("robot", 1, 4)
    assert (position.expected, position.lost) == (4, 4)
    assert "parcels 0 to 3 had been acknowledged as durable" in caplog.text


def test_a_ledger_comes_back_from_json_and_forgets_old_lives():
    ledger = Ledger()
    for epoch in range(20):
        ledger.greet("robot", epoch, 0).samples += 1
    again = Ledger.from_json(ledger.to_json())
    assert again.to_json() == ledger.to_json()
    assert again.newest()["robot"].epoch == 19
    assert len(again.to_json()["robot"]) == 8


def test_a_receiver_that_claims_to_have_what_was_never_sent_ends_nothing():
    """It only loses itself the samples: found by mutated frames, where it was an endless recursion."""
    outbox = ram_outbox("a")
    sender = Sender(outbox)
    for number in range(4):
        outbox.put([bytes([number])])
    sender.welcome(Welcome(0, 4))
    sender.hear(Ack(3, 3))
    message, parcels = sender.next_message(1 << 20, 10)
    assert (message.first, parcels) == (3, [b"\3"])
