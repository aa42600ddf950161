"""Writes recorded data of any format in another one. A new format is a module and a line here.

Our own format holds observations as a `History` compressed them. Others know no histories, so what they get
is whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tmrl.datasets.dataset import Dataset
from tmrl.datasets.minari_export import write_minari
from tmrl.datasets.npz import write_npz
from tmrl.datasets.opening import open_dataset
from tmrl.datasets.whole import whole
from tmrl.datasets.writer import write_native

Format = Literal["native", "minari", "npz"]

WRITERS: dict[str, Callable[[Dataset, Path, bool], list[str]]] = {
    "native": write_native,
    "minari": write_minari,
    "npz": write_npz,
}
NATIVE = "native"


@dataclass(frozen=True, slots=True)
class Report:
    """What an export did."""

    out: Path
    """What was written."""
    episodes: int
    """Episodes that were read, without those of which nothing could be made whole."""
    transitions: int
    """Transitions in them."""
    assumed: tuple[str, ...]
    """What the importer had to assume or leave out, one sentence each."""
    dropped: tuple[str, ...]
    """What the new format cannot hold, one sentence each."""


def export(
    dataset: Dataset | str | Path, out: str | Path, to: Format = "native", drop: bool = False
) -> Report:
    """Writes recorded data anew, whole or not at all.

    Args:
        dataset: A dataset, or what `open_dataset` takes.
        out: A new folder, or for `npz` a new file.
        to: The format.
        drop: Whether to leave out, or convert, what the format cannot hold; otherwise that is an error.

    Returns:
        What was written, and what was not.

    Raises:
        DatasetError: The data cannot be read, or not be held, or there is something called `out`.
        ValueError: There is no such format.
    """
    if to not in WRITERS:
        raise ValueError(f"to must be one of {', '.join(WRITERS)}, got {to!r}")
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    opened, lost = (opened, []) if to == NATIVE else whole(opened, drop)
    dropped = lost + WRITERS[to](opened, Path(out), drop)
    n = len(opened)
    return Report(Path(out), n, opened.n_rows - n, opened.about.assumptions, tuple(dropped))
