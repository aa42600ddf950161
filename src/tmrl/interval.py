"""Interval: says once for every so many steps, or episodes, that it is time."""


class Interval:
    """Counts ticks; due once for every `length` of them, never if that is 0.

    Args:
        length: Ticks from one time to the next.
        begins_due: Whether the first time is at once.
    """

    def __init__(self, length: int, begins_due: bool = False) -> None:
        self._length = length
        self._ticks = length if begins_due else 0

    def tick(self, count: int) -> None:
        """Counts some more."""
        self._ticks += count

    def is_due(self) -> bool:
        """Whether it is time; it then no longer is, until the next."""
        is_due = 0 < self._length <= self._ticks
        if is_due:
            self._ticks %= self._length
        return is_due
