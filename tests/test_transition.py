"""The vocabulary: stamps ride on samples, batches are tuples of six with attributes."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from tmrl.transition import TRANSITION_FIELDS, Batch, EpisodeRecord, Sample, Stamp

STAMP = Stamp("ann", 3, 17, 2, 5, "demo")
VALUES = (None, 1, 2.0, False, True, {"a": 1})


class Rows:
    """Ids that count how often they were computed."""

    asked = 0

    def ids(self) -> Any:
        Rows.asked += 1
        return np.arange(4)


def batch_of(weights: Any = None) -> Batch:
    six = [torch.full((4,), float(i)) for i in range(6)]
    return Batch(six, Rows(), {"speed": torch.ones(4)}, weights)


class TestSample:
    def test_sample_is_the_plain_tuple(self) -> None:
        sample = Sample(VALUES, STAMP)
        assert sample == VALUES
        assert hash(Sample((1, 2), STAMP)) == hash((1, 2))
        assert len(sample) == 6
        act, *_, info = sample
        assert (act, info) == (None, {"a": 1})

    def test_sample_of_any_length_carries_a_stamp(self) -> None:
        assert Sample(range(9), STAMP).stamp == STAMP

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_pickled_sample_keeps_its_stamp(self, protocol: int) -> None:
        loaded = pickle.loads(pickle.dumps(Sample(VALUES, STAMP), protocol))
        assert type(loaded) is Sample
        assert loaded == VALUES
        assert loaded.stamp == STAMP
        assert isinstance(loaded.stamp, Stamp)

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
    def test_copied_sample_keeps_its_stamp(self, duplicate: Any) -> None:
        copied = duplicate(Sample(VALUES, STAMP))
        assert (copied, copied.stamp) == (VALUES, STAMP)

    def test_list_surgery_does_not_part_a_sample_from_its_stamp(self) -> None:
        samples = [Sample((i,), STAMP._replace(step=i)) for i in range(5)]
        del samples[1]
        samples.reverse()
        assert [sample.stamp.step for sample in samples] == [sample[0] for sample in samples]

    def test_part_of_a_sample_is_plain(self) -> None:
        assert not hasattr(Sample(VALUES, STAMP)[:5], "stamp")

    def test_source_of_a_stamp_is_online_unless_named(self) -> None:
        assert Stamp("ann", 0, 0, 0, 0).source == "online"


class TestBatch:
    def test_batch_is_a_tuple_of_six_with_the_documented_names(self) -> None:
        batch = batch_of()
        prev_obs, new_act, rew, new_obs, terminated, truncated = batch
        assert Batch._fields == TRANSITION_FIELDS
        assert batch.prev_obs is prev_obs
        assert batch.new_act is new_act
        assert batch.rew is rew
        assert batch.new_obs is new_obs
        assert batch.terminated is terminated
        assert batch.truncated is truncated
        assert isinstance(batch, tuple)

    def test_ids_are_computed_when_they_are_asked_for(self) -> None:
        before = Rows.asked
        batch = batch_of()
        assert Rows.asked == before
        assert batch.ids.tolist() == [0, 1, 2, 3]

    def test_weights_are_ones_unless_given(self) -> None:
        weights = batch_of().weights
        assert (weights.dtype, weights.tolist()) == (torch.float32, [1.0] * 4)
        given = torch.arange(4.0)
        assert batch_of(given).weights is given

    def test_weights_are_made_once(self) -> None:
        batch = batch_of()
        assert batch.weights is batch.weights

    def test_pickled_batch_keeps_its_attributes(self) -> None:
        loaded = pickle.loads(pickle.dumps(batch_of(torch.arange(4.0))))
        assert type(loaded) is Batch
        assert torch.equal(loaded.rew, torch.full((4,), 2.0))
        assert loaded.ids.tolist() == [0, 1, 2, 3]
        assert loaded.weights.tolist() == [0.0, 1.0, 2.0, 3.0]
        assert loaded.info["speed"].tolist() == [1.0] * 4

    def test_batch_with_a_part_replaced_keeps_its_attributes(self) -> None:
        batch = batch_of(torch.arange(4.0))
        scaled = batch._replace(rew=batch.rew * 10)
        assert type(scaled) is Batch
        assert scaled.rew.tolist() == [20.0] * 4
        assert scaled.prev_obs is batch.prev_obs
        assert scaled.ids.tolist() == [0, 1, 2, 3]
        assert scaled.weights is batch.weights
        assert scaled.info is batch.info


def test_episode_record_cannot_be_changed() -> None:
    record = EpisodeRecord("ann", 1.0, 5, is_test=False)
    with pytest.raises(AttributeError):
        record.length = 6  # type: ignore[misc]
