"""Buffer: the documented container of samples, with one record per finished episode."""

import logging
import pickle
from typing import Any

import numpy as np
import pytest

import tmrl.networking
from makers import plain_episode, stamped
from tmrl.buffer import Buffer
from tmrl.transition import EpisodeRecord, Sample

STATS = ("stat_train_return", "stat_test_return", "stat_train_steps", "stat_test_steps")


def stats(buffer: Buffer) -> tuple[Any, ...]:
    return tuple(getattr(buffer, name) for name in STATS)


def filled(n: int, first: int = 0, maxlen: int = 100) -> Buffer:
    buffer = Buffer(maxlen)
    for i in range(first, first + n):
        buffer.append_sample((i,))
    return buffer


def record(episode_return: float, length: int, is_test: bool = False) -> EpisodeRecord:
    return EpisodeRecord("ann", episode_return, length, is_test)


def test_documented_path_is_this_class() -> None:
    assert tmrl.networking.Buffer is Buffer


def test_new_buffer_is_empty_with_zero_statistics() -> None:
    buffer = Buffer()
    assert (buffer.memory, buffer.episodes, len(buffer), buffer.maxlen) == ([], [], 0, 500_000)
    assert stats(buffer) == (0.0, 0.0, 0, 0)
    assert [type(value) for value in stats(buffer)] == [float, float, int, int]


@pytest.mark.parametrize("maxlen", [0, -3])
def test_maxlen_below_one_is_refused(maxlen: int) -> None:
    with pytest.raises(ValueError, match=f"maxlen must be at least 1, got {maxlen}"):
        Buffer(maxlen=maxlen)


def test_memory_is_a_plain_list_that_callers_may_change() -> None:
    buffer = filled(2)
    buffer.memory.append((9,))
    assert (type(buffer.memory), len(buffer), buffer.memory[-1]) == (list, 3, (9,))


def test_samples_are_kept_by_reference() -> None:
    sample = stamped(plain_episode(0))[0]
    buffer = Buffer()
    buffer.append_sample(sample)
    assert buffer.memory[0] is sample


def test_full_buffer_drops_the_oldest_samples() -> None:
    buffer = filled(5, maxlen=3)
    assert buffer.memory == [(2,), (3,), (4,)]
    assert buffer.dropped == 2


def test_clip_drops_what_the_caller_appended_too_many() -> None:
    buffer = Buffer(maxlen=2)
    buffer.memory += [(i,) for i in range(7)]
    buffer.clip_to_maxlen()
    assert (buffer.memory, buffer.dropped) == ([(5,), (6,)], 5)


def test_first_drop_is_logged_once_until_clear(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tmrl.buffer"):
        buffer = filled(9, maxlen=3)
        assert [message.split(":")[0] for message in caplog.messages] == ["a Buffer is full"]
        assert "maxlen=3" in caplog.text
        buffer.clear()
        buffer.memory += [(0,)] * 4
        buffer.clip_to_maxlen()
    assert len(caplog.messages) == 2


def test_clear_keeps_the_four_statistics() -> None:
    buffer = filled(5, maxlen=3)
    buffer.record_episode(record(2.5, 4))
    held = buffer.memory
    buffer.clear()
    assert (buffer.memory, buffer.episodes, buffer.dropped) == ([], [], 0)
    assert stats(buffer) == (2.5, 0.0, 4, 0)
    assert len(held) == 3


def test_records_set_the_statistics_of_their_kind() -> None:
    buffer = Buffer()
    buffer.record_episode(record(1.0, 10))
    buffer.record_episode(record(2.0, 20, is_test=True))
    buffer.record_episode(record(3.0, 30))
    assert stats(buffer) == (3.0, 2.0, 30, 20)
    assert [episode.length for episode in buffer.episodes] == [10, 20, 30]


class TestIadd:
    def test_samples_and_episodes_are_joined_in_order(self) -> None:
        one, two = filled(2), filled(2, first=2)
        one.record_episode(record(1.0, 1))
        two.record_episode(record(2.0, 2))
        kept = one
        one += two
        assert one is kept
        assert one.memory == [(0,), (1,), (2,), (3,)]
        assert [episode.length for episode in one.episodes] == [1, 2]
        assert two.memory == [(2,), (3,)]

    def test_all_four_statistics_come_from_the_other(self) -> None:
        """Contract 1.2: the last one wins, zeros included."""
        one, two = filled(1), filled(1)
        one.record_episode(record(1.0, 1, is_test=True))
        two.stat_train_return, two.stat_train_steps = 5.0, 50
        one += two
        assert stats(one) == (5.0, 0.0, 50, 0)

    def test_empty_buffer_changes_nothing(self) -> None:
        """Contract 3.10."""
        one = filled(2)
        one.record_episode(record(1.0, 1))
        one += Buffer()
        assert (len(one), len(one.episodes), stats(one)) == (2, 1, (1.0, 0.0, 1, 0))

    def test_buffer_of_test_episodes_only_still_reports_them(self) -> None:
        one, two = filled(2), Buffer()
        two.record_episode(record(7.0, 3, is_test=True))
        one += two
        assert (len(one), one.stat_test_return, len(one.episodes)) == (2, 7.0, 1)

    def test_sum_is_clipped_to_its_own_maxlen(self) -> None:
        one = filled(2, maxlen=3)
        one += filled(4, first=10)
        assert (one.memory, one.dropped) == ([(11,), (12,), (13,)], 3)

    def test_buffer_may_be_added_to_itself(self) -> None:
        buffer = filled(2)
        buffer += buffer
        assert buffer.memory == [(0,), (1,), (0,), (1,)]


def test_pickled_buffer_is_whole() -> None:
    buffer = filled(0)
    for sample in stamped(plain_episode(2)):
        buffer.append_sample(sample)
    buffer.record_episode(record(1.0, 2))
    copy = pickle.loads(pickle.dumps(buffer))
    assert (len(copy), copy.maxlen, copy.episodes, stats(copy)) == (3, 100, buffer.episodes, stats(buffer))
    for one, two in zip(buffer.memory, copy.memory, strict=True):
        assert isinstance(two, Sample)
        assert two.stamp == one.stamp
        np.testing.assert_array_equal(two[1], one[1])


def test_buffer_shows_what_it_holds() -> None:
    assert repr(filled(2)) == "Buffer(2 samples, 0 episodes, maxlen=100)"
