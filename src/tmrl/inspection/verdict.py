"""Verdict: whether every checksum of a dataset is right."""

import time
from dataclasses import dataclass
from itertools import islice

from tmrl.datasets.dataset import Dataset
from tmrl.inspection.words import counted, size

MAX_TOLD = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at every checksum found."""

    kind: str
    """The format of the files."""
    rows: int
    episodes: int
    n_bytes: int
    """Of the rows."""
    seconds: float
    damage: tuple[str, ...]
    """The first things that are wrong, at most `MAX_TOLD`."""
    n_damage: int
    """How many there are in all."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.n_damage

    def __str__(self) -> str:
        read = f"{counted(self.rows, 'row')} in {counted(self.episodes, 'episode')}"
        if self.is_sound:
            return f"sound: {self.kind}, {read}, {size(self.n_bytes)} read in {self.seconds:.1f} s"
        more = self.n_damage - len(self.damage)
        lines = [*self.damage, f"and {more:,} more"] if more else self.damage
        return "\n".join(lines)


def verify(dataset: Dataset) -> Verdict:
    """Reads every checksum; goes on after what is damaged."""
    started_at = time.perf_counter()
    found = dataset.damage()
    damage = tuple(islice(found, MAX_TOLD))
    n_damage = len(damage) + sum(1 for _ in found)
    seconds = time.perf_counter() - started_at
    n_bytes = dataset.n_rows * dataset.schema.row_dtype.itemsize
    return Verdict(dataset.about.kind, dataset.n_rows, len(dataset), n_bytes, seconds, damage, n_damage)
