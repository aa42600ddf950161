"""What an outbox dropped is told exactly, and costs little while nobody listens."""

import os
import shutil
from contextlib import closing

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from networking.numbered import numbered, ram_outbox
from tmrl.errors import StorageError
from tmrl.networking import drops as module
from tmrl.networking.delivery import Ledger, Outbox, Sender, news_in
from tmrl.networking.disk_log import DiskLog
from tmrl.networking.drops import Drops
from tmrl.networking.messages import MAX_NUMBERS, MAX_SAMPLES, Ack, Put, Skip, Welcome
from tmrl.networking.parcel import Encoder
from tmrl.networking.record_log import HEAD_BYTES, RamLog
from tmrl.transition import EpisodeRecord

ENCODER = Encoder()


def parcel_of(n_samples, ends):
    """A parcel in which an episode ends, or does not."""
    buffer = numbered("a", 0, n_samples)
    if ends:
        buffer.record_episode(EpisodeRecord("a", 1.0, n_samples, is_test=False, policy_version=1))
    return b"".join(ENCODER.encode(buffer))


PARCELS = {(n, ends): parcel_of(n, ends) for n, ends in ((1, True), (2, True), (5, True), (3, False))}
MAX_BYTES = 6 * (HEAD_BYTES + max(map(len, PARCELS.values())))


def test_what_was_never_sent_is_a_run_whose_first_number_has_all_samples():
    drops = Drops(10).plus([3, 4, 5], sent=10)
    assert drops.counts_from(10) == (12, 0, 0)
    assert drops.counts_from(11) == (0, 0)
    assert drops.counts_from(13) == ()
    assert drops.to_json() == [(3, 12)]


def test_what_may_have_been_sent_keeps_its_own_counts():
    assert Drops(10).plus([3, 4, 5, 6], sent=12).counts_from(10) == (3, 4, 11, 0)


def test_a_run_that_was_told_in_part_grows_no_more():
    drops = Drops(10).plus([3, 4, 5], sent=10).plus([6, 7], sent=11)
    assert drops.counts_from(10) == (12, 0, 0, 13, 0)


def test_a_run_that_is_settled_in_part_has_told_its_samples():
    drops = Drops(10).plus([3, 4, 5], sent=10).plus([6], sent=13)
    drops.settle(12)
    assert (drops.first, drops.stop, drops.counts_from(12)) == (12, 14, (0, 6))
    drops.settle(20)
    assert (drops.first, drops.stop, drops.counts_from(20)) == (20, 20, ())


def test_one_message_never_holds_more_than_it_may():
    drops = Drops(0).plus([1] * (MAX_NUMBERS + 2), sent=0)
    assert drops.counts_from(0) == (MAX_NUMBERS + 2,) + (0,) * (MAX_NUMBERS - 1)
    assert drops.counts_from(MAX_NUMBERS) == (0, 0)
    many = Drops(0).plus([MAX_SAMPLES - 2, 1, 1], sent=0)
    assert many.counts_from(0) == (MAX_SAMPLES - 1, 0, 1)


def on_disk(folder):
    return Outbox("a", DiskLog(folder, 8 * MAX_BYTES, MAX_BYTES // 2), is_durable=True, when_full="drop")


def killed(outbox, folder):
    """The outbox as it is found after its process was killed now."""
    shutil.copytree(outbox._log.folder, folder)
    return on_disk(folder)


def test_a_kill_leaves_dropped_what_was_dropped(tmp_path):
    """Part of a run that came back would count twice: its samples were told with its first number."""
    with closing(on_disk(tmp_path / "a")) as outbox:
        for _ in range(200):
            outbox.put([PARCELS[1, True]])
        assert outbox.first > 50
        with closing(killed(outbox, tmp_path / "b")) as again:
            assert (again.settled, again.first, again.next) == (0, outbox.first, 200)
            assert again.dropped_from(0) == outbox.dropped_from(0)
            assert again.dropped_samples == outbox.first


def test_numbers_that_were_dropped_are_given_to_nobody_after_a_power_cut(tmp_path):
    """The note of the drop was on the disk, the parcels were not."""
    with closing(on_disk(tmp_path / "a")) as outbox:
        for _ in range(100):
            outbox.put([PARCELS[1, True]])
        outbox._keep(outbox._drops.plus([1] * (100 - outbox.first), 0), 100)
        for file in (tmp_path / "a").glob("*.records"):
            os.truncate(file, 0)
        with closing(killed(outbox, tmp_path / "b")) as again:
            assert again.put([PARCELS[1, True]]) == 100
            assert again.dropped_from(0) == (100,) + (0,) * 99


def test_a_note_that_fails_drops_nothing(tmp_path, monkeypatch):
    with closing(on_disk(tmp_path)) as outbox:
        while outbox._log.has_room(len(PARCELS[1, True])):
            outbox.put([PARCELS[1, True]])
        with monkeypatch.context() as patch:
            patch.setattr(DiskLog, "_note", failing)
            with pytest.raises(StorageError, match="the disk is broken"):
                outbox.put([PARCELS[1, True]])
        assert (outbox.first, outbox.dropped_samples, outbox.dropped_from(0)) == (0, 0, ())
        outbox.put([PARCELS[1, True]])
        assert outbox.first == outbox.dropped_samples > 0


def failing(*_):
    raise StorageError("the disk is broken")


def test_a_receiver_that_is_away_for_days_makes_no_note_grow():
    log = RamLog(MAX_BYTES)
    outbox = Outbox("a", log, when_full="drop")
    for _ in range(10_000):
        outbox.put([PARCELS[1, True]])
    assert log.noted["dropped"] == [(outbox.first, outbox.first)]
    assert outbox.dropped_samples == outbox.first > 9000


def filled(*ends):
    """A full outbox of 16 parcels of one sample; whether an episode ends in each, over and over."""
    parcels = [parcel_of(1, ends[number % len(ends)]) for number in range(16)]
    outbox = ram_outbox("a", sum(HEAD_BYTES + len(parcel) for parcel in parcels), when_full="drop")
    for parcel in parcels:
        outbox.put([parcel])
    return outbox


def test_an_episode_goes_as_a_whole():
    outbox = filled(False, False, True)
    outbox.put([parcel_of(1, False)])
    assert outbox.first == 3


@pytest.mark.parametrize("ends", [(False,), (False, False, False, False, False, True)])
def test_of_an_episode_that_is_long_no_more_goes_than_must(ends):
    outbox = filled(*ends)
    outbox.put([parcel_of(1, False)])
    assert (outbox.first, outbox.dropped_samples) == (1, 1)


class DroppingOutbox(RuleBasedStateMachine):
    """An outbox, and a receiver that keeps a plain list of what each number was."""

    @initialize()
    def begin(self):
        self.log = RamLog(MAX_BYTES)
        self.sizes = []
        """Samples of each parcel that was put."""
        self.arrived = set()
        """Numbers that came as parcels."""
        self.told = {}
        """What was said of each number that was told as dropped."""
        self.skipped = 0
        self.durable = 0
        self.ledger = Ledger()
        self.open()

    def open(self):
        self.outbox = Outbox("a", self.log, when_full="drop")
        self.connect()

    def connect(self):
        self.sender = Sender(self.outbox)
        hello = self.sender.hello()
        self.position = self.ledger.greet(hello.name, hello.epoch, hello.first)
        assert self.sender.welcome(Welcome(self.position.expected, 4))

    @rule(parcels=st.lists(st.sampled_from(sorted(PARCELS)), min_size=1, max_size=5))
    def put(self, parcels):
        for n_samples, ends in parcels:
            assert self.outbox.put([PARCELS[n_samples, ends]]) == len(self.sizes)
            self.sizes.append(n_samples)

    @rule(max_bytes=st.sampled_from((1, 1500, 100_000)), arrives=st.booleans())
    def send(self, max_bytes, arrives):
        sent = self.sender.next_message(max_bytes, self.outbox.next)
        if sent is None:
            return
        message, parcels = sent
        if isinstance(message, Skip):
            self.check_told(message)
        if not arrives:
            self.connect()
            return
        self.take(message, parcels)

    def check_told(self, skip):
        """What was said once is said again: part of it may have arrived."""
        for number, count in enumerate(skip.samples, skip.first):
            assert self.told.setdefault(number, count) == count

    def take(self, message, parcels):
        assert message.first <= self.position.expected
        if isinstance(message, Skip):
            counts = message.samples[self.position.expected - message.first :]
            self.skipped += sum(counts)
            self.position.expected += len(counts)
            return
        put = Put(message.first, message.sizes, 0, b"".join(parcels))
        for number, _ in news_in(self.position, put):
            self.arrived.add(number)
            self.position.expected = number + 1

    @rule(is_durable=st.booleans())
    def acknowledge(self, is_durable):
        if is_durable:
            self.durable = self.position.expected
        self.sender.hear(Ack(self.position.expected, self.durable, self.skipped))

    @rule()
    def lose_connection(self):
        self.connect()

    @rule(is_killed=st.booleans())
    def restart(self, is_killed):
        if not is_killed:
            self.outbox.close()
        self.open()

    @invariant()
    def every_sample_is_somewhere(self):
        """Of the numbers that the receiver has not come to, each is in the log, or its samples are told."""
        expected = self.position.expected
        assert sum(self.sizes[number] for number in self.arrived) + self.skipped + self.waiting() == sum(
            self.sizes
        )
        assert self.outbox.first == self.log.first
        assert self.outbox.settled <= max(expected, self.outbox.first)

    def waiting(self):
        """Samples still to come, as parcels or as dropped."""
        drops, start = self.outbox._drops, self.position.expected
        runs = 0
        while counts := drops.counts_from(start):
            runs += sum(counts)
            start += len(counts)
        return runs + sum(self.sizes[start:])

    @invariant()
    def what_is_kept_is_bounded_by_what_was_sent(self):
        """Beside that there is a run that was never sent, and what is left of one that is settled in part."""
        n_sent = max(0, self.outbox._sent - self.outbox.settled)
        assert len(self.outbox._drops.to_json()) <= n_sent + 2

    @precondition(lambda self: self.outbox.settled < self.outbox.next)
    @rule()
    def deliver_all(self):
        self.connect()
        while self.outbox.settled < self.outbox.next:
            self.send(1 << 20, arrives=True)
            self.acknowledge(is_durable=True)
        lost = set(range(len(self.sizes))) - self.arrived
        assert self.skipped == sum(self.sizes[number] for number in lost) == self.outbox.noted_drops
        assert self.outbox.settled == self.outbox.next == len(self.sizes)


@pytest.mark.parametrize("examples", [100, pytest.param(5000, marks=pytest.mark.stress)])
def test_whatever_is_dropped_sent_lost_and_begun_again_every_sample_counts_once(examples, monkeypatch):
    monkeypatch.setattr(module, "MAX_NUMBERS", 3)  # so that a run needs several messages
    run_state_machine_as_test(
        DroppingOutbox,
        settings=settings(
            max_examples=examples, stateful_step_count=50, deadline=None, derandomize=True, print_blob=False
        ),
    )
