"""The size of a memory: a number of transitions, or a number of bytes that becomes one with the layout."""

import re

import numpy as np

MAX_ROWS = np.iinfo(np.int32).max

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{letter}iB": 2 ** (10 * power) for power, letter in enumerate("KMGT", 1)
}
_BUDGET = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")


def checked_size(size: float | str) -> int | str:
    """A size as it was given, if it is one: a number of transitions as an int, a budget as its text.

    Raises:
        ValueError: It is no such thing.
    """
    if isinstance(size, str):
        budget_bytes(size)
        return size
    if not 1 <= size < MAX_ROWS:
        raise ValueError(f"memory_size must be at least 1 and below {MAX_ROWS}, got {size}")
    return int(size)


def budget_bytes(budget: str) -> int:
    """The bytes in a text such as `24GB` (10^9 bytes each) or `24GiB` (2^30).

    Raises:
        ValueError: It is no such text.
    """
    found = _BUDGET.fullmatch(budget)
    unit = None if found is None else {name.lower(): n for name, n in _UNITS.items()}.get(found[2].lower())
    if found is None or unit is None:
        raise ValueError(
            f'memory_size must be a number of transitions, or bytes as in "24GB", got {budget!r}; '
            f"the units are {', '.join(_UNITS)}"
        )
    return int(float(found[1]) * unit)


def transitions_within(size: int | str, bytes_per_row: int) -> int:
    """The number of transitions that a size stands for.

    Args:
        size: As `checked_size` returned it.
        bytes_per_row: Bytes of one row with all that is kept beside it.

    Raises:
        ValueError: The budget does not hold one transition.
    """
    if isinstance(size, int):
        return size
    n_rows = min(budget_bytes(size) // bytes_per_row, MAX_ROWS)
    if n_rows < 2:
        raise ValueError(
            f"memory_size must hold at least one transition, two rows of {bytes_per_row:,} bytes, got "
            f"{size!r}; choose a larger one"
        )
    return n_rows - 1
