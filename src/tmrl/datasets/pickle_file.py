"""Reads the documented `data.pkl` without running anything that is in it."""

import mmap
from pathlib import Path
from typing import Any

from tmrl.datasets.pickle_machine import run_pickle
from tmrl.errors import DatasetError, UnsafePickleError

_REMEDY = "only NumPy arrays and scalars, and builtin containers and scalars are read; nothing was run"


def read_columns(file: Path) -> list[Any]:
    """Reads a pickled list or tuple of columns, written with any protocol from 0 to 5 and any NumPy.

    Args:
        file: A pickle of NumPy arrays, scalars and dtypes, and builtin containers and scalars. Arrays of
            objects may hold the same.

    Returns:
        The columns. Arrays are writable and own their memory. It takes about 1 us an entry for columns of
        numbers and 20 us for columns of arrays.

    Raises:
        UnsafePickleError: The pickle names or does anything else; the message names it.
        DatasetError: The file is cut, malformed, or no list or tuple.
    """
    try:
        columns = _read(file)
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{file} {error}; {_REMEDY}") from None
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise DatasetError(f"{file} must be a pickle of columns, but {error}; write it anew") from error
    if not isinstance(columns, list | tuple):
        raise DatasetError(
            f"{file} must hold a list or tuple of columns, got {type(columns).__name__}; dump memory.data"
        )
    return list(columns)  # pyright: ignore[reportUnknownArgumentType]


def _read(file: Path) -> Any:
    size = file.stat().st_size
    if size == 0:
        raise DatasetError("it is empty")
    # The bytes of an array are made twice by protocols below 3, once from text: hence 2 * size.
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return run_pickle(mapped, budget=2 * size)
