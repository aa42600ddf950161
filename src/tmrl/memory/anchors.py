"""Anchors: which rows complete a transition, in order of arrival, each reachable by its rank.

The anchor of a transition is its second row. Anchors are numbered as they arrive, and `order`, a ring of
(previous slot, slot) pairs, holds those from `head` to `tail`. An anchor dies when the oldest row that its
window needs is evicted. Where streams interleave, the one that dies may not be at the head; it is then a
*hole* until the head has passed it. Each stream has at most one hole, so the sorted list of them is tiny, and

    the i-th oldest anchor alive = order[head + i + shift],   len = tail - head - number of holes

where `shift` is one `searchsorted` over the holes. Draw, rank and length are exact, without rejection. An
anchor that has to wait (see `waiting.py`) is a hole too, one that is filled when the wait is over; so the
order is that of arrival, whatever waited.

`following` is the slot of the next row of a row's episode, its own while nothing follows; `number` the
number of an anchor, modulo 2**32. All of it can be rebuilt from `back`. The slots have 64 bits because NumPy
turns all other integers into such before it looks anything up: to follow 64 links from 32 rows takes 40 us,
and 100 with distances of 32 bits.
"""

from bisect import insort
from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tmrl.memory.ring import Ring

Pairs = NDArray[np.int32]
"""`(n, 2)` slots: the previous row and the anchor."""

INDEX_BYTES = 20
"""Bytes of the index for each row of the ring."""


class Follower(Protocol):
    """Who is told which transitions come and go, by the slots of their anchors, oldest first.

    What had to wait is added after newer ones.
    """

    def added(self, slots: NDArray[Any]) -> None:
        """These can be drawn from now on."""
        ...

    def removed(self, slots: NDArray[Any]) -> None:
        """These cannot be drawn any more."""
        ...


class Anchors:
    """The index of the transitions in a ring.

    Args:
        ring: The rows; they are written before `extend` is told of them.
        behind: Rows that a window needs behind its transition, or back to the reset. A transition that lacks
            them is no anchor, and one that loses any of them dies.
        stride: Only transitions whose number in their episode is divisible by this are anchors.

    Attributes:
        oldest: Id of the oldest row held.
        next: Id after that of the newest row.
        follower: Who is told what comes and goes; None for nobody.
    """

    def __init__(self, ring: Ring, behind: int = 0, stride: int = 1) -> None:
        self.n_rows = n_rows = ring.n_rows
        self._back, self._place = ring.back, ring.place
        self._behind = behind
        self._is_plain = behind == 0 and stride == 1
        self._is_alive = np.zeros(0 if self._is_plain else n_rows, np.bool_)
        self._stride = stride
        self.oldest = 0
        self.next = 0
        self.follower: Follower | None = None
        self.following = np.zeros(n_rows, np.int64)
        self.number = np.zeros(n_rows, np.uint32)
        self.order = np.zeros((n_rows, 2), np.int32)
        self.head = 0
        self.tail = 0
        self.holes: list[int] = []
        self._waiting: set[int] = set()
        self._pairs = self.order.view(np.int64).reshape(n_rows)
        self._shifted_holes = np.empty(0, np.int64)

    def __len__(self) -> int:
        return self.tail - self.head - len(self.holes)

    @property
    def n_waiting(self) -> int:
        """Transitions that cannot be drawn yet."""
        return len(self._waiting)

    @property
    def n_bytes(self) -> int:
        """Bytes of the index."""
        return self.following.nbytes + self.number.nbytes + self.order.nbytes + self._is_alive.nbytes

    def pairs(self, ranks: NDArray[np.int64]) -> Pairs:
        """The windows of the anchors with these ranks, 0 being the oldest."""
        # Between -n_rows and n_rows: fancy indexing counts negative places from the end, so the ring wraps
        # for free. It also takes 8-byte items four times faster than np.take does.
        places = ranks + (self.head % self.n_rows - self.n_rows)
        if self.holes:
            places += np.searchsorted(self._shifted_holes, ranks, side="right")
        return self._pairs[places].view(np.int32).reshape(-1, 2)

    def pairs_at(self, slots: NDArray[Any]) -> Pairs:
        """The windows of the anchors in these slots."""
        return self._pairs[self._numbers_at(slots) % self.n_rows].view(np.int32).reshape(-1, 2)

    def ranks(self, slots: NDArray[Any]) -> NDArray[np.int64]:
        """The ranks of the anchors in these slots."""
        numbers = self._numbers_at(slots)
        return numbers - self.head - np.searchsorted(self.holes, numbers)

    def are_anchors(self, slots: NDArray[Any]) -> NDArray[np.bool_]:
        """In which of these slots there is the anchor of a transition that can be drawn."""
        numbers = self._numbers_at(slots)
        is_anchor = self._is_there(numbers, slots)
        return is_anchor & ~np.isin(numbers, self.holes) if self.holes else is_anchor

    def _is_there(self, numbers: NDArray[np.int64], slots: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether these are numbers of anchors in these slots, those that are holes included."""
        return (numbers < self.tail) & (self.order[numbers % self.n_rows, 1] == slots)

    def _numbers_at(self, slots: NDArray[Any]) -> NDArray[np.int64]:
        """Numbers of the anchors in these slots; where there is none, any number from the head on."""
        ages = self.number[slots] - np.uint32(self.head & 0xFFFFFFFF)
        return ages.astype(np.int64) + self.head

    def _number_at(self, slot: int) -> int:
        return self.head + ((int(self.number[slot]) - self.head) & 0xFFFFFFFF)

    def extend(
        self, first_id: int, back: NDArray[np.int32], oldest: int, waiting: Collection[int] = ()
    ) -> None:
        """Adds the transitions that rows `first_id, first_id + 1, ...` complete.

        Args:
            first_id: Id of the first row.
            back: Links of the rows.
            oldest: Oldest row in the ring; nothing reaches behind it.
            waiting: Ids of rows; those of them that are anchors cannot be drawn until `release`.
        """
        n_rows = self.n_rows
        self.oldest, self.next = oldest, first_id + len(back)
        ids = np.arange(first_id, first_id + len(back))
        new_slots = ids[-n_rows:] % n_rows
        self.following[new_slots] = new_slots
        anchors = ids[back > 0]
        previous = anchors - back[back > 0]
        held = previous >= oldest
        anchors, previous = anchors[held], previous[held]
        self.following[previous % n_rows] = anchors % n_rows
        if not self._is_plain:
            is_usable = self._has_all_behind(previous, oldest)
            is_usable &= self._place[previous % n_rows] % self._stride == 0
            anchors, previous = anchors[is_usable], previous[is_usable]
            self._is_alive[new_slots] = False
            self._is_alive[anchors % n_rows] = True
        slots, previous_slots = anchors % n_rows, previous % n_rows
        numbers = np.arange(self.tail, self.tail + len(anchors))
        self.number[slots] = numbers.astype(np.uint32)
        places = numbers % n_rows
        self.order[places, 0] = previous_slots
        self.order[places, 1] = slots
        self.tail += len(anchors)
        if waiting:
            waits = np.isin(anchors, list(waiting))
            self._waiting.update(numbers[waits].tolist())
            self.holes += numbers[waits].tolist()
            self._close_up()
            slots = slots[~waits]
        if self.follower is not None and len(slots):
            self.follower.added(slots)

    def release(self, row_ids: Collection[int]) -> None:
        """Those of these rows, all in the ring, that are anchors and wait can be drawn from now on."""
        released: list[int] = []
        for slot in (row_id % self.n_rows for row_id in sorted(row_ids)):
            number = self._number_at(slot)
            if number in self._waiting and self.order[number % self.n_rows, 1] == slot:
                self._waiting.remove(number)
                self.holes.remove(number)
                released.append(slot)
        if not released:
            return
        self._close_up()
        if self.follower is not None:
            self.follower.added(np.array(released))

    def extend_one(self, row_id: int, back: int, oldest: int, waiting: Collection[int] = ()) -> None:
        """`extend` for one row."""
        if not self._is_plain:
            self.extend(row_id, np.array([back], np.int32), oldest, waiting)
            return
        slot = row_id % self.n_rows
        self.oldest, self.next = oldest, row_id + 1
        self.following[slot] = slot
        if back > 0 and row_id - back >= oldest:
            previous = (row_id - back) % self.n_rows
            self.following[previous] = slot
            self.number[slot] = self.tail & 0xFFFFFFFF
            self.order[self.tail % self.n_rows] = previous, slot
            self.tail += 1
            if row_id in waiting:
                self._waiting.add(self.tail - 1)
                self.holes.append(self.tail - 1)
                self._close_up()
            elif self.follower is not None:
                self.follower.added(np.array([slot]))

    def evict(self, ids: range) -> None:
        """Removes the transitions whose older row is among these, the oldest rows of the ring."""
        if not self._is_plain:
            self._evict_ahead(np.arange(ids.start, ids.stop) % self.n_rows)
            return
        if len(ids) == 1:
            self._evict_one(ids.start)
            return
        anchors = self._after(np.arange(ids.start, ids.stop) % self.n_rows)
        if len(anchors):
            self._remove(anchors)

    def _after(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slots of the rows that follow those in these slots."""
        following = self.following[slots]
        return following[following != slots]

    def _evict_ahead(self, slots: NDArray[np.int64]) -> None:
        """Removes the anchors whose windows reach back to the rows in any of these slots."""
        reached: list[NDArray[np.int64]] = []
        for _ in range(self._behind + 1):
            slots = self._after(slots)
            reached.append(slots)
        slots = np.unique(np.concatenate(reached))
        slots = slots[self._is_alive[slots]]
        if len(slots):
            self._is_alive[slots] = False
            self._remove(slots)

    def _has_all_behind(self, previous: NDArray[np.int64], oldest: int) -> NDArray[np.bool_]:
        """Whether the rows that a window needs behind these ones are there, or the reset is."""
        has_all = np.ones(len(previous), np.bool_)
        for _ in range(self._behind):
            links = self._back[previous % self.n_rows]
            further = previous - np.maximum(links, 0)
            has_all &= (links >= 0) & (further >= oldest)
            previous = np.maximum(further, oldest)
        return has_all

    def _evict_one(self, row_id: int) -> None:
        slot = row_id % self.n_rows
        anchor = int(self.following[slot])
        if anchor == slot:
            return
        number = self._number_at(anchor)
        if number in self._waiting:  # a hole already
            self._waiting.remove(number)
            self._close_up()
            return
        if self.follower is not None:
            self.follower.removed(np.array([anchor]))
        if number == self.head and not self.holes:
            self.head += 1
            return
        insort(self.holes, number)
        self._close_up()

    def _remove(self, slots: NDArray[np.int64]) -> None:
        """Removes anchors alive until now, by their slots."""
        if self._waiting:
            slots = self._without_waiting(slots)
        if not len(slots):
            self._close_up()
            return
        numbers = np.sort(self._numbers_at(slots))
        if self.follower is not None:
            self.follower.removed(slots)
        if not self.holes and numbers[0] == self.head and numbers[-1] == self.head + len(numbers) - 1:
            self.head += len(numbers)
            return
        self.holes = sorted([*self.holes, *numbers.tolist()])
        self._close_up()

    def _without_waiting(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Makes holes for good of those that waited, and returns the others."""
        numbers = self._numbers_at(slots)
        waits = np.isin(numbers, list(self._waiting))
        self._waiting.difference_update(numbers[waits].tolist())
        return slots[~waits]

    def _close_up(self) -> None:
        """Moves the head past the holes that begin there, but not past what only waits."""
        passed = 0
        while passed < len(self.holes) and self.holes[passed] == self.head + passed:
            if self.holes[passed] in self._waiting:
                break
            passed += 1
        self.head += passed
        del self.holes[:passed]
        # A hole is passed by the ranks from the number of anchors alive before it on.
        self._shifted_holes = np.array(self.holes, np.int64) - np.arange(
            self.head, self.head + len(self.holes)
        )
