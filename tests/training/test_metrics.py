"""Means of metrics and durations."""

import math
from typing import Any

import pytest
import torch

from tmrl.training.metrics import RoundMeans, Stopwatch


def test_a_mean_is_over_the_updates_that_have_the_metric() -> None:
    means = RoundMeans()
    for metrics in ({"a": 1, "b": math.nan}, {"a": 2.0, "b": 4.0, "c": None}, {"a": torch.tensor([6.0])}):
        means.add(metrics)
    result = means.means()
    assert (result["a"], result["b"]) == (3.0, 4.0)
    assert math.isnan(result["c"])


def test_a_metric_does_not_keep_its_graph_and_may_change_later() -> None:
    """B39: an agent may return the same dict each time."""
    means, metrics = RoundMeans(), {"a": torch.ones(1, requires_grad=True) * 2}
    means.add(metrics)
    metrics["a"] = 9.0
    assert means.means() == {"a": 2.0}


@pytest.mark.parametrize("value", ["high", torch.zeros(2), [1.0]])
def test_a_metric_that_is_no_number_is_named(value: Any) -> None:
    means = RoundMeans()
    means.add({"loss": value})
    with pytest.raises(TypeError, match="metric 'loss' must be a number or a tensor of one element, got"):
        means.means()


def test_a_stopwatch_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 3.0, 10.0, 15.0])
    monkeypatch.setattr("tmrl.training.metrics.time.perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    for last, total in ((2.0, 2.0), (5.0, 7.0)):
        with watch:
            pass
        assert (watch.last_s, watch.total_s) == (last, total)
