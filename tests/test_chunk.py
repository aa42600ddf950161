"""Samples of any origin are sorted into unbroken runs of one stream, and nothing is joined that was apart."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from makers import plain_episode, stamped
from tmrl.chunk import PLAIN, Chunk, Stream, chunks_of
from tmrl.errors import BadSampleError
from tmrl.packing import Packer
from tmrl.schema import Nest, Schema
from tmrl.transition import Sample, Stamp

PACKER = Packer(
    Schema(Nest.infer("obs", np.zeros(1, np.float32)), Nest.infer("act", np.zeros(1, np.float32)))
)


def chunks(samples: list[Any], **kwargs: Any) -> list[Chunk]:
    return chunks_of(samples, PACKER, **kwargs)


def numbers(chunk: Chunk) -> list[int]:
    return [int(number) for number in chunk.rows["rew"]]


def labelled(samples: list[Sample], source: str) -> list[Sample]:
    return [Sample(sample, sample.stamp._replace(source=source)) for sample in samples]


class TestStampedSamples:
    def test_samples_of_one_stream_are_one_chunk(self) -> None:
        samples = stamped(plain_episode(3), first_step=7, episode=2, epoch=9)
        (chunk,) = chunks(samples)
        assert numbers(chunk) == [0, 1, 2, 3]
        assert (chunk.stream, chunk.first_step) == (Stream("ann", 9), 7)
        assert (chunk.source, chunk.continues) == ("online", True)
        assert chunk.starts.tolist() == [True, False, False, False]
        assert chunk.episodes.tolist() == [2, 2, 2, 2]

    def test_single_sample_is_a_chunk(self) -> None:
        (chunk,) = chunks(stamped(plain_episode(3))[2:3])
        assert (numbers(chunk), chunk.first_step, chunk.starts.tolist()) == ([2], 2, [False])

    def test_several_episodes_of_one_stream_are_one_chunk(self) -> None:
        samples = stamped(plain_episode(1)) + stamped(plain_episode(1, first=2), first_step=2, episode=1)
        (chunk,) = chunks(samples)
        assert chunk.starts.tolist() == [True, False, True, False]
        assert chunk.episodes.tolist() == [0, 0, 1, 1]

    def test_interleaved_streams_come_apart_in_the_order_of_their_first_samples(self) -> None:
        """B10: neither workers nor two lives of one worker are mixed."""
        bob, ann = stamped(plain_episode(2), "bob"), stamped(plain_episode(2, first=10), "ann")
        later = stamped(plain_episode(2, first=20), "bob", epoch=1)
        samples = [sample for three in zip(bob, ann, later, strict=True) for sample in three]
        assert [(chunk.stream, numbers(chunk)) for chunk in chunks(samples)] == [
            (("bob", 0), [0, 1, 2]),
            (("ann", 0), [10, 11, 12]),
            (("bob", 1), [20, 21, 22]),
        ]

    def test_gap_begins_a_chunk_that_says_where_it_stands(self) -> None:
        samples = stamped(plain_episode(5))
        first, second = chunks(samples[:2] + samples[4:])
        assert (numbers(first), first.first_step) == ([0, 1], 0)
        assert (numbers(second), second.first_step) == ([4, 5], 4)

    def test_duplicate_and_late_samples_begin_chunks(self) -> None:
        """B42: whoever takes the chunks sees the repeated number and drops it."""
        a, b, c = stamped(plain_episode(2))
        assert [(numbers(chunk), chunk.first_step) for chunk in chunks([a, b, b, c, a])] == [
            ([0, 1], 0),
            ([1, 2], 1),
            ([0], 0),
        ]

    def test_all_chunks_of_one_buffer_may_follow_what_the_memory_holds(self) -> None:
        samples = stamped(plain_episode(5))
        assert all(chunk.continues for chunk in chunks(samples[:2] + samples[4:]))

    def test_unstamped_sample_breaks_the_streams_around_it(self) -> None:
        ann, bob = stamped(plain_episode(3), "ann"), stamped(plain_episode(3, first=10), "bob")
        plain = plain_episode(0, first=50)[0]
        found = chunks([*ann[:2], bob[0], plain, *ann[2:], *bob[1:]])
        assert [(chunk.stream.worker, numbers(chunk), chunk.continues) for chunk in found] == [
            ("ann", [0, 1], True),
            ("bob", [10], True),
            ("unstamped", [50], False),
            ("ann", [2, 3], False),
            ("bob", [11, 12, 13], False),
        ]

    def test_unstamped_sample_in_front_breaks_the_stream(self) -> None:
        plain, *_ = plain_episode(0, first=50)
        assert [chunk.continues for chunk in chunks([plain, *stamped(plain_episode(1))])] == [False, False]

    @given(
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.booleans()), min_size=1, max_size=12)
    )
    def test_every_sample_is_in_one_chunk_of_its_stream_at_its_step(self, origins: list[Any]) -> None:
        samples: list[Any] = []
        for index, (worker, number, is_plain) in enumerate(origins):
            value = np.array([index], np.float32)
            values = (value, value, float(index), False, False, {})
            samples.append(values if is_plain else Sample(values, Stamp(worker, 0, number, 0, number)))
        found = chunks(samples)
        assert sorted(n for chunk in found for n in numbers(chunk)) == list(range(len(samples)))
        for chunk in found:
            for offset, number in enumerate(numbers(chunk)):
                stamp = getattr(samples[number], "stamp", None)
                assert (stamp is None) == (chunk.first_step is None) == (chunk.stream == PLAIN)
                if stamp is not None and chunk.first_step is not None:
                    assert (stamp.worker, stamp.step) == (chunk.stream.worker, chunk.first_step + offset)
                    assert chunk.starts[offset] == (stamp.episode_step == 0)


class TestPlainSamples:
    def test_plain_buffer_is_a_stream_of_its_own(self) -> None:
        (chunk,) = chunks(plain_episode(2))
        assert (chunk.stream, chunk.first_step, chunk.continues) == (PLAIN, None, False)
        assert chunk.episodes.tolist() == [0, 0, 0]

    def test_plain_buffer_continues_if_the_caller_says_so(self) -> None:
        (chunk,) = chunks(plain_episode(2), continues=True)
        assert chunk.continues

    @pytest.mark.parametrize("ending", ["terminated", "truncated"])
    def test_sample_after_a_done_one_is_a_reset_even_with_an_action(self, ending: str) -> None:
        """B01, B09: rtgym resets with a default action instead of None."""
        reset = plain_episode(1, first=9)[1]
        assert reset[0] is not None
        (chunk,) = chunks([*plain_episode(2, ending=ending), reset])
        assert chunk.starts.tolist() == [True, False, False, True]

    def test_reset_without_done_begins_an_episode(self) -> None:
        """B09."""
        (chunk,) = chunks(plain_episode(1, ending="") + plain_episode(1, ending=""))
        assert chunk.starts.tolist() == [True, False, True, False]

    def test_first_sample_with_an_action_does_not_begin_an_episode(self) -> None:
        (chunk,) = chunks(plain_episode(3)[1:])
        assert chunk.starts.tolist() == [False, False, False]


class TestSource:
    def test_source_of_append_labels_what_carries_no_label(self) -> None:
        for samples in (plain_episode(2), stamped(plain_episode(2))):
            assert [chunk.source for chunk in chunks(samples, source="demo")] == ["demo"]

    def test_label_of_a_stamp_comes_before_that_of_append(self) -> None:
        samples = labelled(stamped(plain_episode(2)), "intervention")
        assert [chunk.source for chunk in chunks(samples, source="demo")] == ["intervention"]

    def test_change_of_label_cuts_a_stream_without_breaking_it(self) -> None:
        samples = stamped(plain_episode(4))
        samples[2:4] = labelled(samples[2:4], "intervention")
        found = chunks(samples)
        assert [(numbers(chunk), chunk.source, chunk.first_step) for chunk in found] == [
            ([0, 1], "online", 0),
            ([2, 3], "intervention", 2),
            ([4], "online", 4),
        ]
        assert all(chunk.continues for chunk in found)

    def test_info_labels_plain_samples_one_by_one(self) -> None:
        samples = plain_episode(4)
        samples[2:4] = [(*sample[:5], {"source": "intervention"}) for sample in samples[2:4]]
        found = chunks(samples, source="demo")
        assert [(numbers(chunk), chunk.source, chunk.continues) for chunk in found] == [
            ([0, 1], "demo", False),
            ([2, 3], "intervention", True),
            ([4], "demo", True),
        ]

    @pytest.mark.parametrize("label", [None, 3, np.zeros(2), ["demo"]])
    def test_label_that_is_no_text_is_refused(self, label: Any) -> None:
        samples = [*plain_episode(1), (*plain_episode(0)[0][:5], {"source": label})]
        message = (
            r"sample 2 of 3: info\[\"source\"\]: expected a str that labels where the data come from, found"
        )
        with pytest.raises(BadSampleError, match=message):
            chunks(samples)

    @pytest.mark.parametrize("info", [None, [], {}])
    def test_info_that_says_nothing_takes_the_label_of_append(self, info: Any) -> None:
        samples = [(*sample[:5], info) for sample in plain_episode(2)]
        assert [chunk.source for chunk in chunks(samples, source="demo")] == ["demo"]


def test_nothing_is_made_of_samples_unless_all_fit() -> None:
    samples = [*stamped(plain_episode(2)), *stamped([(None, np.zeros(2), 0.0, False, False, {})], "bob")]
    with pytest.raises(BadSampleError, match="worker 'bob', sample 3 of 4: obs"):
        chunks(samples)
