"""Epoch: every transition once in each pass, for offline training and behaviour cloning."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tmrl.memory.samplers import Choice, Index, Sampler

LOOKED_AT = 64
"""Fewest rows looked at in one go; not each of them completes a transition that is still there."""


@final
class Epoch(Sampler):
    """Every transition once in each pass, in an order that the seed and the number of the pass decide.

    A batch goes on into the next pass where one ends, so it always has the size asked for, and may hold a
    transition twice there. What is appended during a pass joins the next one. What is evicted during a pass
    is passed over; the others come once all the same.

    A pass is a permutation of the ids of the rows that were there when it began, and a place in it. So it
    goes on where it was after a save and a load, and after a resize. The first batch of a pass makes the
    permutation, 4 bytes and some 10 ns a row.

    Args:
        seed: Of the order.

    Attributes:
        epoch: Number of passes completed.
    """

    row_bytes = 4

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.epoch = 0
        self._first = 0
        self._n_rows = 0
        self._place = 0
        self._order: NDArray[np.int32] | None = None

    @property
    def kind(self) -> str:
        """See `Sampler`."""
        return f"Epoch(seed={self.seed})"

    def draw(self, batch_size: int, index: Index) -> Choice:
        """See `Sampler`."""
        chosen: list[NDArray[np.int64]] = []
        missing = batch_size
        while missing:
            if self._place == self._n_rows:
                self._begin_pass(index)
            slots = self._go_on(missing, index)
            chosen.append(slots)
            missing -= len(slots)
        return Choice(index.pairs_at(np.concatenate(chosen)))

    def _begin_pass(self, index: Index) -> None:
        if self._n_rows:
            self.epoch += 1
        self._first, self._n_rows, self._place = index.oldest, index.next - index.oldest, 0
        self._order = None

    def _go_on(self, n: int, index: Index) -> NDArray[np.int64]:
        """The next transitions of the pass, at most `n`; none if none is found among some rows."""
        if self._order is None:
            self._order = np.arange(self._n_rows, dtype=np.int32)
            np.random.default_rng([self.seed, self.epoch]).shuffle(self._order)
        ahead = max(LOOKED_AT, 2 * n * self._n_rows // len(index))
        ids = self._first + self._order[self._place : self._place + ahead].astype(np.int64)
        slots = ids % index.n_rows
        found = np.flatnonzero((ids >= index.oldest) & index.are_anchors(slots))[:n]
        self._place += int(found[-1]) + 1 if len(found) == n else len(ids)
        return slots[found]

    def state(self) -> dict[str, Any]:
        """See `Sampler`."""
        return super().state() | {"epoch": self.epoch, "pass": [self._first, self._n_rows, self._place]}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Sampler`."""
        super().restore(state)
        self.epoch = int(state["epoch"])
        self._first, self._n_rows, self._place = map(int, state["pass"])
        self._order = None
