"""The band of training steps per sample."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmrl.training.rate_limit import RateLimit


@given(
    st.floats(0.01, 100),
    st.integers(0, 1000),
    st.floats(0.5, 1000),
    st.integers(0, 5000),
    st.integers(0, 5000),
)
def test_training_or_samples_may_always_go_on(ratio, start, ahead, training_steps, samples):
    """So the two ends of the band cannot wait for each other."""
    limit = RateLimit(ratio, start, ahead)
    assert limit.may_train(training_steps, samples) or limit.room(training_steps, samples) > 0


def test_training_waits_for_the_first_samples_and_for_the_ratio():
    limit = RateLimit(2.0, start_training=10)
    assert not limit.may_train(0, 9)
    assert limit.may_train(0, 10)
    assert limit.may_train(20, 10)
    assert not limit.may_train(21, 10)


def test_samples_wait_when_they_are_too_far_ahead():
    limit = RateLimit(2.0, start_training=10, max_env_steps_ahead=5)
    assert limit.room(0, 14) == 1
    assert limit.room(0, 15) == 0
    assert limit.room(2, 15) == 1


def test_without_an_upper_end_samples_never_wait():
    assert RateLimit(1.0).room(0, 10**9) > 0


def test_an_infinite_ratio_never_waits_for_samples():
    limit = RateLimit(float("inf"), max_env_steps_ahead=3)
    assert limit.may_train(10**9, 1)
    assert limit.room(10**9, 4) == 0


def test_it_says_what_it_waits_for():
    limit = RateLimit(2.0, start_training=1000)
    assert limit.missing(0, 400) == "600 more samples, for start_training=1,000"
    assert "2,500 training steps for 1,200 samples" in limit.missing(2500, 1200)


@pytest.mark.parametrize("ratio", [0, -1, float("nan")])
def test_a_ratio_must_be_above_zero(ratio):
    with pytest.raises(ValueError, match="max_training_steps_per_env_step must be above 0, got"):
        RateLimit(ratio)


def test_the_band_must_not_be_empty():
    with pytest.raises(ValueError, match="max_env_steps_ahead must be above 0, got 0"):
        RateLimit(1.0, max_env_steps_ahead=0)
