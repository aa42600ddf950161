"""Statistics of numbers that are seen once, a block at a time, in memory that does not grow with them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BINS = 1024
"""A histogram has more than half as many, as far as the numbers are spread."""
LARGEST = 2.0**1000
"""Beyond, the edges of bins would be out of the range of floats."""
_MANTISSA = 52
_NARROWEST = -1022


@dataclass(frozen=True, slots=True)
class Pooled:
    """Count, extremes and mean of numbers; NaN where there are none."""

    n: int
    """Finite numbers."""
    n_nan: int
    n_inf: int
    low: float
    high: float
    mean: float
    """Of the finite ones."""


class Extent:
    """Count, extremes and mean of each column of a table of numbers; what is not finite is counted apart.

    Args:
        n_columns: Of every block.
        with_spread: Whether the standard deviation is wanted too.
    """

    def __init__(self, n_columns: int = 1, with_spread: bool = False) -> None:
        self.n = np.zeros(n_columns, np.int64)
        self.n_nan = np.zeros(n_columns, np.int64)
        self.n_inf = np.zeros(n_columns, np.int64)
        self.low = np.full(n_columns, np.inf)
        self.high = np.full(n_columns, -np.inf)
        self._mean = np.zeros(n_columns)
        self._squares = np.zeros(n_columns)
        self._with_spread = with_spread

    def add(self, block: NDArray[Any]) -> None:
        """Takes in a block, `(n, n_columns)`, of real numbers."""
        finite = np.isfinite(block) if block.dtype.kind == "f" else None
        if finite is None or finite.all():
            self._merge(slice(None), block)
            return
        self.n_nan += np.isnan(block).sum(axis=0)
        self.n_inf += np.isinf(block).sum(axis=0)
        for column, is_finite in enumerate(finite.T):
            self._merge(slice(column, column + 1), block[is_finite, column : column + 1])

    # Far from zero a sum may leave the range of floats; the mean is then infinite, which is what it says.
    @np.errstate(over="ignore", invalid="ignore")
    def _merge(self, columns: slice, block: NDArray[Any]) -> None:
        if not block.size:
            return
        self.low[columns] = np.minimum(self.low[columns], block.min(axis=0))
        self.high[columns] = np.maximum(self.high[columns], block.max(axis=0))
        before, added = self.n[columns], len(block)
        n = before + added
        mean = block.mean(axis=0, dtype=np.float64)
        off = mean - self._mean[columns]
        if self._with_spread:
            # Chan, Golub, LeVeque (1979): the squares of two parts about the mean of both.
            squares = np.square(block - mean).sum(axis=0)
            self._squares[columns] += squares + np.square(off) * (before * added / n)
        self._mean[columns] += off * (added / n)
        self.n[columns] = n

    @property
    def mean(self) -> NDArray[np.float64]:
        """Of each column; NaN of nothing."""
        return np.where(self.n > 0, self._mean, np.nan)

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of each column; NaN of nothing."""
        return np.where(self.n > 0, np.sqrt(self._squares / np.maximum(self.n, 1)), np.nan)

    def pooled(self) -> "Pooled":
        """All columns together."""
        n = int(self.n.sum())
        if not n:
            return Pooled(0, int(self.n_nan.sum()), int(self.n_inf.sum()), np.nan, np.nan, np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float((self._mean * (self.n / n)).sum())
        low, high = float(self.low.min()), float(self.high.max())
        return Pooled(n, int(self.n_nan.sum()), int(self.n_inf.sum()), low, high, mean)


class Histogram:
    """Exact counts of numbers in bins whose width grows as the range does.

    The width is a power of two, and the edges are multiples of it. So a bin of twice the width is two bins
    put together, and the result does not depend on the order of the numbers.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(0, np.int64)
        self.is_whole = True
        """Whether all numbers are integers."""
        self._greatest = -math.inf
        self._first = 0
        self._exponent = 0

    def add(self, values: NDArray[Any]) -> None:
        """Takes in numbers, `(n,)`; those that are not finite, or beyond `LARGEST`, are left out."""
        values = values.astype(np.float64)
        values = values[np.abs(values) < LARGEST]
        if not len(values):
            return
        self.is_whole = self.is_whole and bool((values == np.floor(values)).all())
        low, high = float(values.min()), float(values.max())
        self._greatest = max(self._greatest, high)
        if len(self.counts):
            low, high = min(low, self.low), max(high, self.high - self.width)
        exponent = _exponent(low, high)
        if len(self.counts):
            exponent = max(exponent, self._exponent)
            self._coarsen(exponent - self._exponent)
        self._exponent = exponent
        places = np.floor(values / self.width).astype(np.int64)
        self._put(int(places.min()), np.bincount(places - places.min()).astype(np.int64))

    def _put(self, first: int, counts: NDArray[np.int64]) -> None:
        if not len(self.counts):
            self._first, self.counts = first, counts
            return
        start = min(first, self._first)
        stop = max(first + len(counts), self._first + len(self.counts))
        both = np.zeros(stop - start, np.int64)
        both[self._first - start :][: len(self.counts)] += self.counts
        both[first - start :][: len(counts)] += counts
        self._first, self.counts = start, both

    def _coarsen(self, doublings: int) -> None:
        places = np.arange(self._first, self._first + len(self.counts)) >> min(doublings, 63)
        self._first = int(places[0])
        self.counts = np.bincount(places - self._first, self.counts).astype(np.int64)
        self._exponent += doublings

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self._exponent)

    @property
    def low(self) -> float:
        """Left edge of the first bin."""
        return self._first * self.width

    @property
    def high(self) -> float:
        """Right edge of the last bin."""
        return (self._first + len(self.counts)) * self.width

    def coarse(self, n_bins: int) -> "Histogram":
        """The same with at most so many bins, and none narrower than 1 if all numbers are integers.

        If the greatest number is the left edge of the last bin, it counts for the bin before, as in NumPy:
        an action that is clipped at 1 then has no bin of its own beyond 1.
        """
        histogram = Histogram()
        histogram.counts, histogram._first, histogram._exponent = self.counts, self._first, self._exponent
        histogram.is_whole = self.is_whole
        if self.is_whole and self._exponent < 0 and len(self.counts):
            histogram._coarsen(-self._exponent)
        while len(histogram.counts) > n_bins:
            histogram._coarsen(1)
        counts = histogram.counts
        if not self.is_whole and len(counts) > 1 and self._greatest == histogram.high - histogram.width:
            histogram.counts = np.append(counts[:-2], counts[-2] + counts[-1])
        return histogram


def _exponent(low: float, high: float) -> int:
    """The smallest power of two of which at most `MAX_BINS` bins hold all from `low` to `high`."""
    exponents = [_NARROWEST]
    if low or high:
        exponents.append(math.frexp(max(abs(low), abs(high)))[1] - _MANTISSA)
    if low < high:
        exponents.append(math.frexp(high - low)[1] - MAX_BINS.bit_length())
    exponent = max(exponents)
    while (
        math.floor(high / math.ldexp(1.0, exponent)) - math.floor(low / math.ldexp(1.0, exponent)) >= MAX_BINS
    ):
        exponent += 1
    return exponent
