"""One door to recorded data: finds out what format a path is in. A new format is a module and a line here."""

from collections.abc import Callable
from pathlib import Path

from tmrl.datasets.dataset import Dataset
from tmrl.datasets.linked import SavedMemory, is_snapshot
from tmrl.datasets.living import LivingMemory, is_living
from tmrl.datasets.minari import find_minari, is_id, is_minari, open_minari
from tmrl.datasets.native import NativeDataset, is_native
from tmrl.datasets.npz import is_npz, open_npz
from tmrl.datasets.pickled import is_pickled, open_pickled
from tmrl.errors import DatasetError

Format = tuple[Callable[[Path], bool], Callable[[Path], Dataset]]
"""Whether a path is in the format, and what opens it."""

FORMATS: tuple[Format, ...] = (
    (is_native, NativeDataset),
    (is_snapshot, SavedMemory),
    (is_living, LivingMemory),
    (is_pickled, open_pickled),
    (is_npz, open_npz),
    (is_minari, open_minari),
)

_ACCEPTED = (
    "a folder of this package, a memory that was saved or lives in a folder, a folder with a data.pkl, an "
    ".npz file, or the folder or id of a Minari dataset"
)


def open_dataset(path: str | Path) -> Dataset:
    """Opens recorded data of any format; nothing that the files hold is run, and nothing is written.

    Args:
        path: A folder that `DatasetWriter` wrote, one that `ReplayMemory.save` wrote, one that a memory lives
            in, one with the documented `data.pkl`, an `.npz` file, or a Minari dataset (its folder, or its id
            in Minari's own root).

    Raises:
        DatasetError: It is none of these, or damaged; the message says what was found.
    """
    place = Path(path)
    for is_format, open_format in FORMATS:
        if is_format(place):
            return open_format(place)
    if place.exists():
        raise DatasetError(f"{path} must be {_ACCEPTED}; found {_found(place)}")
    folder = find_minari(str(path)) if is_id(str(path)) else None
    if folder is None:
        raise DatasetError(f"{path} must be {_ACCEPTED}; found nothing of that name")
    return open_minari(folder)


def _found(place: Path) -> str:
    if place.is_file():
        return f"a file of {place.stat().st_size:,} bytes"
    names = sorted(file.name for file in place.iterdir())
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"a folder with {listed}" if names else "an empty folder"
