"""The slow, obviously right memory, with which the fast one is compared bit by bit.

It keeps every row that ever arrived in a Python list and finds out for each sample on its own which row it
follows, by the rules and nothing else. What is evicted is a matter of the row's number.
"""

from dataclasses import dataclass
from typing import Any

from tmrl.transition import Sample


@dataclass
class OracleRow:
    """One sample that was taken in, and the number of the row that it follows, if any."""

    sample: Any
    follows: int | None
    begins: bool = False
    """Whether it is a reset: nothing before it is missing."""
    ring: str = ""
    """The kept source in whose ring it is; empty for all others."""


class Oracle:
    """What `ReplayMemory` must hold after the same appends and resizes."""

    def __init__(self, memory_size: int) -> None:
        self.memory_size = memory_size
        self.rows: list[OracleRow] = []
        self.oldest = 0
        self.newest_of: dict[tuple[str, int], int] = {}
        self.newest_plain: int | None = None
        self.duplicates = 0
        self.gaps = 0

    def resize(self, memory_size: int) -> None:
        self.memory_size = memory_size
        self._evict()

    def append(self, samples: list[Any], continues: bool = False) -> None:
        """Takes samples in, those of one stream together, streams in the order of their first sample."""
        section = 0
        groups: dict[Any, list[Any]] = {}
        for before, sample in zip([None, *samples], samples, strict=False):
            if isinstance(sample, Sample):
                key = ("stamped", sample.stamp.worker, sample.stamp.epoch, section)
            else:
                if before is None or isinstance(before, Sample):
                    section += 1
                key = ("plain", section)
            groups.setdefault(key, []).append(sample)
        is_all_plain = len(groups) == 1 and ("plain", 1) in groups
        for key, group in groups.items():
            if key[0] == "plain":
                self._append_plain(group, continues and is_all_plain)
            else:
                self._append_stamped(group, is_broken=key[3] > 0)
        self._evict()

    def transitions(self) -> list[tuple[Any, Any]]:
        """Pairs (sample before, sample) of every transition that can be drawn, oldest first."""
        return [
            (self.rows[row.follows].sample, row.sample)
            for row in map(self.rows.__getitem__, self.held())
            if row.follows is not None and self.is_held(row.follows)
        ]

    def held(self) -> list[int]:
        """Numbers of the rows that were not evicted, in the order of the memory's transitions."""
        return list(range(self.oldest, len(self.rows)))

    def is_held(self, number: int) -> bool:
        return number >= self.oldest

    def id_of(self, number: int) -> int:
        """The id by which the memory knows the row."""
        return number

    def ring_of(self, sample: Any) -> str:
        return ""

    def anchors(self, behind: int = 0, stride: int = 1, waits: int = 0) -> list[int]:
        """Numbers of the rows that complete a transition with `behind` rows behind it, or its reset.

        With `waits`, only those that so many rows follow, or that end where nothing more can come.
        """
        return [
            number
            for number in self.held()
            if (previous := self.rows[number].follows) is not None
            and self.is_held(previous)
            and len(self.behind(previous, behind)) == behind
            and self.place(previous) % stride == 0
            and not self.has_to_wait(number, waits)
        ]

    def has_to_wait(self, number: int, waits: int) -> bool:
        """Whether fewer than `waits` rows follow, and more may come."""
        ahead = self.ahead(number, waits)
        return len(ahead) < waits and self.is_open([number, *ahead][-1])

    def is_open(self, number: int) -> bool:
        """Whether the row is the newest of its worker's present life, and its episode goes on."""
        stamp = getattr(self.rows[number].sample, "stamp", None)
        if self._is_done(number):
            return False
        if stamp is None:
            return number == self.newest_plain
        lives = [epoch for worker, epoch in self.newest_of if worker == stamp.worker]
        return stamp.epoch == lives[-1] and number == self.newest_of[stamp.worker, stamp.epoch]

    def behind(self, number: int, n: int) -> list[int]:
        """The n rows before a row, oldest first; the reset repeats itself, and others may be missing."""
        found: list[int] = []
        for _ in range(n):
            row = self.rows[number]
            if row.follows is not None and self.is_held(row.follows):
                number = row.follows
            elif row.follows is not None or not row.begins:
                break
            found.insert(0, number)
        return found

    def ahead(self, number: int, n: int) -> list[int]:
        """Up to n rows that follow a row, each the next one of its episode."""
        found: list[int] = []
        while len(found) < n:
            following = [i for i in range(number + 1, len(self.rows)) if self.rows[i].follows == number]
            if not following:
                break
            (number,) = following
            found.append(number)
        return found

    def place(self, number: int) -> int:
        """How many rows of its episode came before a row, those that were evicted too."""
        place = 0
        while (follows := self.rows[number].follows) is not None:
            number, place = follows, place + 1
        return place

    def _append_plain(self, group: list[Any], continues: bool) -> None:
        before = self.newest_plain if continues else None
        for sample in group:
            is_reset = sample[0] is None or (before is not None and self._is_done(before))
            self.rows.append(OracleRow(sample, None if is_reset else before, is_reset, self.ring_of(sample)))
            before = len(self.rows) - 1
        self.newest_plain = before

    def _append_stamped(self, group: list[Any], is_broken: bool) -> None:
        for position, sample in enumerate(group):
            stamp = sample.stamp
            stream = (stamp.worker, stamp.epoch)
            before = self.newest_of.get(stream)
            missing = 0
            if before is not None:
                missing = stamp.step - (self.rows[before].sample.stamp.step + 1)
            if missing < 0:
                self.duplicates += 1
                continue
            self.gaps += missing
            is_linked = (
                before is not None
                and missing == 0
                and stamp.episode_step > 0
                and stamp.episode == self.rows[before].sample.stamp.episode
                and not self._is_done(before)
                and self.rows[before].ring == self.ring_of(sample)
                and not (is_broken and position == 0)
            )
            begins, ring = stamp.episode_step == 0, self.ring_of(sample)
            self.rows.append(OracleRow(sample, before if is_linked else None, begins, ring))
            self.newest_of[stream] = len(self.rows) - 1

    def _is_done(self, row: int) -> bool:
        _, _, _, terminated, truncated, _ = self.rows[row].sample
        return bool(terminated) or bool(truncated)

    def _evict(self) -> None:
        self.oldest = max(self.oldest, len(self.rows) - (self.memory_size + 1))


class RingsOracle(Oracle):
    """The same for a memory in which some sources have a ring of their own."""

    def __init__(self, memory_size: int, keep: dict[str, int]) -> None:
        super().__init__(memory_size)
        self.keep = keep

    def ring_of(self, sample: Any) -> str:
        source = sample.stamp.source if isinstance(sample, Sample) else "online"
        return source if source in self.keep else ""

    def _numbers_in(self, ring: str) -> list[int]:
        return [number for number, row in enumerate(self.rows) if row.ring == ring]

    def held(self) -> list[int]:
        return [
            number for ring in ("", *self.keep) for number in self._numbers_in(ring)[self.evicted[ring] :]
        ]

    def is_held(self, number: int) -> bool:
        ring = self.rows[number].ring
        return self._numbers_in(ring).index(number) >= self.evicted[ring]

    def id_of(self, number: int) -> int:
        rings = ["", *self.keep]
        ring = self.rows[number].ring
        return rings.index(ring) + len(rings) * self._numbers_in(ring).index(number)

    def _evict(self) -> None:
        sizes = {"": self.memory_size - sum(self.keep.values()), **self.keep}
        before = getattr(self, "evicted", dict.fromkeys(sizes, 0))
        self.evicted = {
            ring: max(before[ring], len(self._numbers_in(ring)) - (size + 1)) for ring, size in sizes.items()
        }
