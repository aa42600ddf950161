"""Order: slots in the order of their arrival, each reachable by its rank, any of them removable.

The same idea as in `anchors.py`, for some of the transitions only: what is removed and not at the head is a
*hole* until the head has passed it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST_ROOM = 64


class Order:
    """Slots in the order of their arrival. Its room doubles when it is full.

    Args:
        number: `(n_rows,)` room for the number of each slot; orders that share no slot may share it.
    """

    def __init__(self, number: NDArray[np.int64]) -> None:
        self._number = number
        self._slots = np.empty(FIRST_ROOM, np.int32)
        self._head = 0
        self._tail = 0
        self._holes = np.empty(0, np.int64)
        self._shifted_holes = self._holes

    def __len__(self) -> int:
        return self._tail - self._head - len(self._holes)

    def slots(self, ranks: NDArray[np.int64]) -> NDArray[np.int32]:
        """The slots with these ranks, 0 being the oldest."""
        numbers = ranks + self._head
        if len(self._holes):
            numbers += np.searchsorted(self._shifted_holes, ranks, side="right")
        return self._slots[numbers % len(self._slots)]

    def cut(self, rank: int) -> NDArray[np.int32]:
        """Removes the slots from this rank on, and returns them."""
        slots = self.slots(np.arange(rank, len(self)))
        if len(slots):
            self._tail = int(self._number[slots[0]])
            kept = len(self._holes[self._holes < self._tail])
            self._holes, self._shifted_holes = self._holes[:kept], self._shifted_holes[:kept]
        return slots

    def append(self, slots: NDArray[Any]) -> None:
        """Adds slots, none of which is in it."""
        stop = self._tail + len(slots)
        if stop - self._head > len(self._slots):
            self._grow(stop - self._head)
        numbers = np.arange(self._tail, stop)
        self._number[slots] = numbers
        self._slots[numbers % len(self._slots)] = slots
        self._tail = stop

    def _grow(self, n: int) -> None:
        room = np.empty(max(n, 2 * len(self._slots)), np.int32)
        numbers = np.arange(self._head, self._tail)
        room[numbers % len(room)] = self._slots[numbers % len(self._slots)]
        self._slots = room

    def remove(self, slots: NDArray[Any]) -> None:
        """Removes slots, all of which are in it."""
        holes = np.sort(np.concatenate([self._holes, self._number[slots]]))
        # The head moves past the holes that begin there.
        is_passed = holes == np.arange(self._head, self._head + len(holes))
        passed = len(holes) if is_passed.all() else int(is_passed.argmin())
        self._head += passed
        self._holes = holes[passed:]
        # A hole is passed by the ranks from the number of slots alive before it on.
        self._shifted_holes = self._holes - np.arange(self._head, self._head + len(self._holes))
