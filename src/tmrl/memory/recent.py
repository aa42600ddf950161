"""Samplers that prefer what is new."""

import math
from typing import Any, final

import numpy as np

from tmrl.memory.samplers import Choice, Index, Sampler, scaled


@final
class Recent(Sampler):
    """The newer a transition, the likelier: each `half_life` transitions older, half as likely.

    `P(age) = 2**(-age / half_life) / sum`, where age 0 is the newest transition and the sum is over all that
    are there. Drawn by the inverse of the distribution, with replacement: the cost does not depend on how
    many there are.

    Args:
        half_life: In transitions.

    Raises:
        ValueError: It is not above 0.
    """

    def __init__(self, half_life: float) -> None:
        if not 0 < half_life < math.inf:
            raise ValueError(f"half_life must be a number of transitions above 0, got {half_life}")
        self.half_life = half_life

    def draw(self, batch_size: int, index: Index) -> Choice:
        """See `Sampler`."""
        n, rate = len(index), math.log(2) / self.half_life
        # P(age < a) = (1 - exp(-rate a)) / (1 - exp(-rate n)), solved for a.
        ages = -np.log1p(self.numbers.take(batch_size) * math.expm1(-rate * n)) / rate
        return Choice(index.pairs(n - 1 - np.minimum(ages.astype(np.int64), n - 1)))


@final
class EmphasizeRecent(Sampler):
    """Emphasizing Recent Experience (ERE) of Wang & Ross 2019 (arXiv 1906.04009).

    Updates come in cycles of K; draw k of a cycle, k = 1 to K, is uniform, with replacement, over the newest
    `c_k = max(N * eta**(k * 1000 / K), c_min)` transitions. So a cycle begins with many and ends with the
    newest. N is the number of transitions there are: the size of the buffer, once it is full.

    Args:
        eta: Above 0, at most 1, where all draws are uniform; mostly 0.994 to 0.999.
        updates_per_cycle: K, draws in a cycle: as many as there are updates between two rounds of collecting.
        c_min: Fewest transitions to draw from.

    Raises:
        ValueError: An argument is out of range.

    Attributes:
        k: Number of the newest draw in its cycle; 0 before the first.
    """

    def __init__(self, eta: float = 0.996, updates_per_cycle: int = 1000, c_min: int = 5000) -> None:
        if not 0 < eta <= 1:
            raise ValueError(f"eta must be above 0 and at most 1, got {eta}")
        if updates_per_cycle < 1 or c_min < 1:
            raise ValueError(
                f"updates_per_cycle and c_min must be at least 1, got {updates_per_cycle} and {c_min}"
            )
        self.eta = eta
        self.updates_per_cycle = updates_per_cycle
        self.c_min = c_min
        self.k = 0

    def draw(self, batch_size: int, index: Index) -> Choice:
        """See `Sampler`."""
        n = len(index)
        self.k = self.k % self.updates_per_cycle + 1
        newest = int(n * self.eta ** (self.k * 1000 / self.updates_per_cycle))
        newest = min(n, max(newest, self.c_min))
        return Choice(index.pairs(scaled(self.numbers.take(batch_size), newest) + (n - newest)))

    def state(self) -> dict[str, Any]:
        """See `Sampler`."""
        return super().state() | {"k": self.k}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Sampler`."""
        super().restore(state)
        self.k = int(state["k"])
