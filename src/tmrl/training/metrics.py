"""What the training loop measures: durations, and the mean of every metric over a round."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any


class Stopwatch:
    """Adds up the time of everything done within it; reads out seconds."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self.last_s = 0.0
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.last_s = time.perf_counter() - self._start
        self.total_s += self.last_s


class RoundMeans:
    """The mean of every metric over one round.

    Tensors are kept as they are and read at the end of the round, so that no update waits for the device.
    """

    def __init__(self) -> None:
        self._values: defaultdict[str, list[Any]] = defaultdict(list)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Adds the metrics of one update; an update may lack some."""
        for name, value in metrics.items():
            # A tensor that requires gradients would keep its whole graph alive until the round ends.
            detach = getattr(value, "detach", None)
            self._values[name].append(value if detach is None else detach())

    def means(self) -> dict[str, float]:
        """The means so far; None and NaN count as missing, and a metric that is always missing is NaN.

        Raises:
            TypeError: A metric is no number.
        """
        return {name: _mean(name, values) for name, values in self._values.items()}


def _mean(name: str, values: list[Any]) -> float:
    numbers = [_number(name, value) for value in values if value is not None]
    present = [number for number in numbers if not math.isnan(number)]
    return math.fsum(present) / len(present) if present else math.nan


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"metric {name!r} must be a number or a tensor of one element, got {type(value).__name__}; "
            "change what train() returns"
        ) from error
