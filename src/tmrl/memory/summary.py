"""What a memory says about itself: `ReplayMemory.stats()`."""

import numpy as np

from tmrl.memory.batches import AnyDrawn
from tmrl.memory.state import MemoryState
from tmrl.memory.stats import SOURCE, WORKER, MemoryStats, percentile


def summary(
    state: MemoryState, drawn: AnyDrawn | None, *, draws: int, ignored_updates: int, crc_checked: int
) -> MemoryStats:
    """What is in the memory, where it came from, and how old the newest batch was; under its lock."""
    store, total = state.store, state.tally.total()
    ages = np.empty(0) if drawn is None else drawn.ages().astype(np.float64)
    ages_s = np.empty(0) if store is None or drawn is None else store.ages_s(drawn.ids())
    ages_s = ages_s[~np.isnan(ages_s)]
    newest = 0 if store is None else store.newest_policy
    versions = np.empty(0) if store is None or drawn is None else store.policy_versions(drawn.ids())
    lags = newest - versions[versions > 0].astype(np.float64)
    return MemoryStats(
        transitions=0 if store is None else len(store.anchors),
        rows=0 if store is None else store.n_rows,
        capacity=state.capacity if isinstance(state.capacity, int) else 0,
        bytes_now=0 if store is None else store.bytes_now,
        bytes_full=0 if store is None else store.bytes_full,
        appended=total.appended,
        evicted=total.evicted,
        refused=total.refused,
        duplicates=total.duplicates,
        gaps=total.gaps,
        draws=draws,
        ignored_updates=ignored_updates,
        damaged=state.damaged,
        writes_ignored=state.writes_ignored,
        crc_checked=crc_checked,
        age_rows_p50=percentile(ages, 50),
        age_rows_p95=percentile(ages, 95),
        age_s_p50=percentile(ages_s, 50),
        age_s_p95=percentile(ages_s, 95),
        policy_version=newest,
        policy_lag_p50=percentile(lags, 50),
        policy_lag_p95=percentile(lags, 95),
        workers=state.tally.by(WORKER),
        sources=state.tally.by(SOURCE),
    )
