"""Whether what was drawn comes as often as it should; a false alarm in 10^6 tests."""

from typing import Any

import numpy as np
from scipy.stats import chi2

FALSE_ALARM = 1e-6


def assert_distributed(ids: Any, expected: dict[int, float]) -> None:
    """Chi-square goodness of fit of ids against probabilities."""
    found, counts = np.unique(ids, return_counts=True)
    assert set(found.tolist()) <= set(expected)
    table = dict(zip(found.tolist(), counts.tolist(), strict=True))
    wanted = np.array([len(ids) * p for p in expected.values()])
    seen = np.array([table.get(row, 0) for row in expected])
    # Rare ones are put together, as the test needs some five of each.
    is_rare = wanted < 5
    wanted = np.append(wanted[~is_rare], wanted[is_rare].sum() + 1e-300)
    seen = np.append(seen[~is_rare], seen[is_rare].sum())
    statistic = ((seen - wanted) ** 2 / wanted)[wanted >= 5].sum()
    assert statistic < chi2.isf(FALSE_ALARM, max(1, (wanted >= 5).sum() - 1))
