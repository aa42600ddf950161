"""Shares: how much of a spool each worker fills, so that none fills it alone.

A worker may hold three times what is free. So one worker alone fills three quarters, two greedy ones six
sevenths between them, and whoever comes later always finds room. Nothing of it must be set, or known of who
else will come.

Bytes are counted in blocks of records and given back a block at a time, when all of it was forgotten; that
costs the same whatever the spool holds. What a spool held when it was opened is nobody's.
"""

from collections import Counter, deque

TIMES_FREE = 3
"""What a worker may hold, in what is free."""
N_BLOCKS = 256
"""Into which the spool is divided; a share is known up to one of them."""


class Shares:
    """Who holds how much of a spool.

    Args:
        max_bytes: Of the spool.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blocks: deque[tuple[int, Counter[str]]] = deque()
        self._held: Counter[str] = Counter()
        self._newest_bytes = 0

    def add(self, name: str, number: int, n_bytes: int) -> None:
        """Notes that a record is a worker's."""
        if not self._blocks or self._newest_bytes * N_BLOCKS > self._max_bytes:
            self._blocks.append((number, Counter()))
            self._newest_bytes = 0
        self._blocks[-1][1][name] += n_bytes
        self._held[name] += n_bytes
        self._newest_bytes += n_bytes

    def forget(self, before: int) -> None:
        """Notes that records before that number are gone."""
        while len(self._blocks) > 1 and self._blocks[1][0] <= before:
            _, gone = self._blocks.popleft()
            self._held -= gone

    def has_room(self, name: str, n_bytes: int, free_bytes: int) -> bool:
        """Whether a worker may add so much, while so much is free; one that holds nothing always may."""
        held = self._held[name]
        return not held or held + n_bytes <= TIMES_FREE * (free_bytes - n_bytes)
