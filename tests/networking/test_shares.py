"""Shares of a spool: nobody fills it alone, and it is known what is given back."""

import random
from collections import deque

import pytest

from makers import parcel_of
from networking.numbered import numbered
from tmrl.errors import ParcelError
from tmrl.networking.messages import Put
from tmrl.networking.record_log import RamLog
from tmrl.networking.shares import N_BLOCKS, TIMES_FREE, Shares
from tmrl.networking.spool import Spool, from_record, skip_record, to_record


class PlainShares:
    """Who holds what, record by record."""

    def __init__(self) -> None:
        self.records = deque()

    def add(self, name, number, n_bytes):
        self.records.append((number, name, n_bytes))

    def forget(self, before):
        while self.records and self.records[0][0] < before:
            self.records.popleft()

    def held(self, name):
        return sum(n_bytes for _, owner, n_bytes in self.records if owner == name)


def test_what_a_worker_holds_is_known_up_to_a_block():
    rng = random.Random(0)
    shares, plain, first, max_bytes = Shares(100_000), PlainShares(), 0, 100_000
    for number in range(5000):
        name, n_bytes = rng.choice("abc"), rng.randint(1, 300)
        for each in (shares, plain):
            each.add(name, number, n_bytes)
        if number - first > 200:
            first = rng.randint(first, number)
            for each in (shares, plain):
                each.forget(first)
        for name in "abc":
            assert 0 <= shares._held[name] - plain.held(name) <= max_bytes / N_BLOCKS + 300


def test_a_worker_that_holds_nothing_always_has_room():
    assert Shares(1000).has_room("a", 900, 1000)


@pytest.mark.parametrize("n_greedy", [1, 2, 5])
def test_greedy_workers_fill_only_their_share_and_whoever_comes_later_finds_room(n_greedy):
    log = RamLog(200_000)
    spool = Spool(log, is_durable=False)
    parcel = parcel_of(numbered("x", 0, 10))
    names = [f"greedy-{i}" for i in range(n_greedy)]

    def fill(names):
        """Each puts in turn, until none has room."""
        while True:
            ready = [name for name in names if spool.has_room(name, Put(0, (len(parcel),), 0, parcel))]
            if not ready:
                return
            for name in ready:
                position = spool.ledger.position(name, 1, 0)
                assert spool.take(name, position, Put(position.expected, (len(parcel),), 0, parcel)) is None

    fill(names)
    share = TIMES_FREE * n_greedy / (1 + TIMES_FREE * n_greedy)
    assert share - 0.1 < log.n_bytes / log.max_bytes < share + 0.02
    before = spool.ledger.position("late", 1, 0).parcels
    fill(["late"])
    assert spool.ledger.position("late", 1, 0).parcels > before + 3
    spool.forget(spool.next)
    fill(names[:1])
    assert spool.has_room("late", Put(0, (len(parcel),), 0, parcel))


def test_a_spool_that_is_empty_takes_what_is_larger_than_a_share():
    spool = Spool(RamLog(10_000), is_durable=False)
    assert spool.has_room("a", Put(0, (9_000,), 0, bytes(9_000)))


def test_records_that_are_none_are_refused():
    parcel = b"".join(to_record("robot", 1, 2, 3, b"parcel"))
    assert from_record(parcel).name == "robot"
    for record, reason in (
        (b"", "must have a head, got none"),
        (parcel[:26], "must have a head, got none"),
        (parcel[:27] + b"\xff" * 5 + parcel[32:], "must have a head, got none"),
        (b"\x07" + parcel[1:], "must hold a parcel or skipped numbers"),
        (parcel[:30], "must hold a parcel or skipped numbers"),
        (b"\x01" + parcel[1:], "must say where they stop, and does not"),
    ):
        with pytest.raises(ParcelError, match=reason):
            from_record(record)


def test_records_of_skipped_numbers_come_back():
    from tmrl.networking.messages import Skip

    record = from_record(b"".join(skip_record("robot", 1, Skip(5, (2, 3)))))
    assert (record.number, record.stop, record.samples, record.parcel) == (5, 7, 5, None)
