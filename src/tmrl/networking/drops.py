"""Drops: numbers that an outbox gave up, and the samples of each, until the other end has counted them.

A number that may have been sent, as a parcel or as dropped, keeps its own count: the other end may have it
already, and that is not known here yet. What was never sent nobody else can have. Of such numbers only a run
is kept, how many they are and how many samples they held together, and told as all samples in the first of
them and none in the others. So a receiver may be away for as long as it likes: what is kept is bounded by
what was sent to it.

A run of which anything may have been sent does not grow any more, as its samples were told with its first
number.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain, islice

from tmrl.networking.messages import MAX_NUMBERS, MAX_SAMPLES


class Drops:
    """Consecutive numbers that were dropped.

    Args:
        first: The oldest of them, or the number that comes next.
        runs: Numbers, and the samples of all of them, of each run; as `to_json` returned them.

    Attributes:
        first: Number of the oldest parcel that the other end is not known to have counted.
        stop: Number of the oldest parcel that was not dropped.
    """

    def __init__(self, first: int, runs: Iterable[Sequence[int]] = ()) -> None:
        self.first = first
        self._runs = deque((n_numbers, n_samples) for n_numbers, n_samples in runs)
        self.stop = first + sum(n_numbers for n_numbers, _ in self._runs)

    def plus(self, counts: Iterable[int], sent: int) -> "Drops":
        """These and the next numbers; costs as much as there are runs.

        Args:
            counts: Samples of each.
            sent: Numbers from this one on were never sent.
        """
        drops = Drops(self.first, self._runs)
        for n_samples in counts:
            drops._add(n_samples, sent)
        return drops

    def _add(self, n_samples: int, sent: int) -> None:
        n_numbers, so_far = self._runs[-1] if self._runs else (0, 0)
        if n_numbers and self.stop - n_numbers >= sent and so_far + n_samples < MAX_SAMPLES:
            self._runs[-1] = (n_numbers + 1, so_far + n_samples)
        else:
            self._runs.append((1, n_samples))
        self.stop += 1

    def counts_from(self, start: int) -> tuple[int, ...]:
        """The samples to tell for each number from `start` on, as many as one message may hold."""
        if start >= self.stop:
            return ()
        counts = chain.from_iterable(
            chain((n_samples,), (0 for _ in range(n_numbers - 1))) for n_numbers, n_samples in self._runs
        )
        skipped = max(0, start - self.first)
        return tuple(islice(counts, skipped, skipped + MAX_NUMBERS))

    def settle(self, before: int) -> None:
        """Forgets the numbers before one, which the other end has counted."""
        while self._runs and self.first + self._runs[0][0] <= before:
            self.first += self._runs.popleft()[0]
        if self._runs and self.first < before:
            n_numbers, _ = self._runs[0]
            self._runs[0] = (n_numbers - (before - self.first), 0)
        self.first = max(self.first, before)
        self.stop = max(self.stop, before)

    def to_json(self) -> list[tuple[int, int]]:
        """The runs, as what `json.dumps` takes."""
        return list(self._runs)
