"""Waiting: transitions whose window may still grow, and that the window wants whole.

A row is *open* if another may follow it: it is the newest of its worker's present life, and its episode
goes on. The transition that ends in an open row waits, and so do those before it in the episode, up to as
many as the window says. Each chunk moves or closes the open row of one worker, so only that worker's
transitions have to be looked at. All of it follows from the links and from where the streams stand; nothing
more is saved.
"""

from collections.abc import Collection

from tmrl.memory.ring import Ring


class Waiting:
    """Which rows wait, worker by worker; not each of them completes a transition.

    Args:
        n: Most rows of a worker that wait.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._rows: dict[str, frozenset[int]] = {}

    def update(
        self, worker: str, open_row: int | None, ring: Ring
    ) -> tuple[Collection[int], Collection[int]]:
        """Follows a worker, whose newest rows are in the ring, to its open row.

        Returns:
            Ids of the rows that wait now, and of those still in the ring whose wait is over.
        """
        before = self._rows.pop(worker, frozenset())
        now = frozenset[int]() if open_row is None else self._up_to(open_row, ring)
        if now:
            self._rows[worker] = now
        return now, [row_id for row_id in before - now if row_id >= ring.oldest]

    def begin(self, open_rows: dict[str, int], ring: Ring) -> Collection[int]:
        """Forgets all, and returns the rows that wait in a ring as it is."""
        self._rows = {worker: self._up_to(row_id, ring) for worker, row_id in open_rows.items()}
        return frozenset().union(*self._rows.values())

    def _up_to(self, row_id: int, ring: Ring) -> frozenset[int]:
        """A row and those before it in its episode, as many as wait and are held."""
        rows: list[int] = []
        while row_id >= ring.oldest and len(rows) < self._n:
            rows.append(row_id)
            back = int(ring.back[row_id % ring.n_rows])
            if back <= 0:
                break
            row_id -= back
        return frozenset(rows)
