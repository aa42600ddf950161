"""Priorities beside rows that were saved: one file of numbers, named in the manifest.

    <token>.priorities.npy    float64, one for each of some rows that follow each other

They are what a sampler keeps for each row, see `tmrl.memory.samplers`.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.files import read_array, write_array
from tmrl.errors import DatasetError


def new_name() -> str:
    """A name for a file of priorities."""
    return secrets.token_hex(4)


def write_priorities(
    folder: Path, name: str, kind: str, first_id: int, priorities: NDArray[np.float64]
) -> dict[str, Any]:
    """Writes priorities to a new file.

    Args:
        folder: Where.
        name: From `new_name`.
        kind: Of the sampler.
        first_id: Id of the first row.
        priorities: Of that row and those after it.

    Returns:
        What the manifest is to say of them, under `priorities`.
    """
    checksum = write_array(folder / f"{name}.priorities.npy", priorities)
    return {"name": name, "kind": kind, "first": first_id, "n": len(priorities), "crc": checksum}


def read_priorities(
    folder: Path, body: dict[str, Any], kind: str | None
) -> tuple[int, NDArray[np.float64]] | None:
    """Reads the priorities that a manifest names.

    Args:
        folder: Where they are.
        body: The memory's part of the manifest.
        kind: Of the sampler that wants them; None takes those of any.

    Returns:
        The id of the first row and the priorities; None if there are none for such a sampler.

    Raises:
        DatasetError: The file is missing, damaged, or holds something else.
    """
    entry: Any = body.get("priorities")
    try:
        if entry is None or kind not in {None, entry["kind"]}:
            return None
        file = f"{entry['name']}.priorities.npy"
        first_id, n, checksum = (int(entry[key]) for key in ("first", "n", "crc"))
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"the manifest of {folder} must say where priorities are, but: {error!r}"
        ) from error
    priorities = np.array(read_array(folder, file, np.dtype(np.float64), n, checksum))
    if not (np.isfinite(priorities) & (priorities >= 0)).all():
        raise DatasetError(f"{folder / file} must hold finite numbers of at least 0")
    return first_id, priorities


def damage_of_priorities(folder: Path, body: dict[str, Any]) -> Iterator[str]:
    """Compares the checksum of the priorities that a manifest names, and says what is wrong, if anything."""
    try:
        read_priorities(folder, body, None)
    except DatasetError as error:
        yield str(error)
