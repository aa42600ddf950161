"""Statistics of numbers seen once, beside NumPy's of all of them at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmrl.inspection.statistics import MAX_BINS, Extent, Histogram

FLOATS = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=40)


def blocks(values: np.ndarray) -> list[np.ndarray]:
    return np.array_split(values, 7)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
def test_extent_of_blocks_is_that_of_the_whole(dtype: str) -> None:
    values = (np.random.default_rng(0).normal(1000, 30, (500, 3)) % 200).astype(dtype)
    extent = Extent(3, with_spread=True)
    for block in blocks(values):
        extent.add(block)
    wide = values.astype(np.float64)
    assert extent.n.tolist() == [500] * 3
    np.testing.assert_array_equal(extent.low, wide.min(axis=0))
    np.testing.assert_array_equal(extent.high, wide.max(axis=0))
    np.testing.assert_allclose(extent.mean, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(extent.std, wide.std(axis=0), rtol=1e-9)
    assert extent.pooled().mean == pytest.approx(wide.mean())
    assert (extent.pooled().low, extent.pooled().high) == (wide.min(), wide.max())


def test_what_is_not_finite_is_counted_apart() -> None:
    values = np.array([[1.0, np.nan], [np.inf, np.nan], [3.0, -np.inf], [np.nan, np.nan]])
    extent = Extent(2)
    for block in blocks(values):
        extent.add(block)
    assert (extent.n.tolist(), extent.n_nan.tolist(), extent.n_inf.tolist()) == ([2, 0], [1, 3], [1, 1])
    np.testing.assert_array_equal(extent.mean, [2.0, np.nan])
    assert np.isnan(Extent().pooled().low)


def test_extreme_numbers_overflow_quietly() -> None:
    extent, histogram = Extent(with_spread=True), Histogram()
    values = np.array([-1.7e308, 1.7e308, 1.7e308, 5e-324])
    extent.add(values.reshape(-1, 1))
    histogram.add(values)
    assert extent.high[0] == 1.7e308
    assert histogram.counts.sum() == 1


def counted(histogram: Histogram) -> tuple[float, float, list[int]]:
    return histogram.low, histogram.width, histogram.counts.tolist()


@settings(max_examples=200, deadline=None)
@given(values=FLOATS, seed=st.integers(0, 100))
def test_histogram_counts_exactly_and_in_any_order(values: list[float], seed: int) -> None:
    one, other = Histogram(), Histogram()
    one.add(np.array(values))
    for value in np.random.default_rng(seed).permutation(values):
        other.add(np.array([value]))
    assert counted(one) == counted(other)
    assert 0 < len(one.counts) <= MAX_BINS
    places = np.floor(np.array(values) / one.width) - one.low / one.width
    np.testing.assert_array_equal(one.counts, np.bincount(places.astype(int), minlength=len(one.counts)))


def test_histogram_is_that_of_numpy() -> None:
    values = np.random.default_rng(0).exponential(3, 100_000).astype(np.float32)
    histogram = Histogram()
    for block in blocks(values):
        histogram.add(block)
    for shown in (histogram, histogram.coarse(40), histogram.coarse(3)):
        edges = shown.low + shown.width * np.arange(len(shown.counts) + 1)
        np.testing.assert_array_equal(shown.counts, np.histogram(values, edges)[0])
    assert len(histogram.counts) > MAX_BINS / 2
    assert 20 <= len(histogram.coarse(40).counts) <= 40


def test_whole_numbers_get_bins_of_their_own() -> None:
    histogram = Histogram()
    histogram.add(np.array([0, 2, 2, 5, -1]))
    shown = histogram.coarse(40)
    assert counted(shown) == (-1.0, 1.0, [1, 1, 0, 2, 0, 0, 1])
    histogram.add(np.array([0.5, np.nan]))
    assert not histogram.is_whole
    assert histogram.counts.sum() == 6


def test_numbers_clipped_at_an_edge_have_no_bin_beyond_it() -> None:
    values = np.random.default_rng(0).normal(0, 1, 1000).clip(-1, 1)
    histogram = Histogram()
    histogram.add(values)
    shown = histogram.coarse(40)
    assert (shown.low, shown.high) == (-1.0, 1.0)
    np.testing.assert_array_equal(shown.counts, np.histogram(values, len(shown.counts), (-1, 1))[0])


def test_a_histogram_of_nothing_is_empty() -> None:
    histogram = Histogram()
    histogram.add(np.array([np.nan, np.inf]))
    assert len(histogram.coarse(10).counts) == 0
