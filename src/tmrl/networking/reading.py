"""Reading what a peer sent: everything is checked before anything is made of it.

A peer may be broken or hostile. Lengths are compared with the bytes that are really there, and sizes with
`Limits`, before memory is taken; what is wrong is told by a `ParcelError`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tmrl.errors import ParcelError, TmrlError

Value = TypeVar("Value")

MAX_NUMBER = 1 << 62
"""Steps, episodes and epochs are below it, so that sums of two of them fit 64 bits."""

_MALFORMED = (TmrlError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one parcel may be, so that no peer can exhaust memory or time."""

    max_bytes: int = 1 << 30
    """Bytes of the parcel, and of its rows once they are decompressed."""
    max_samples: int = 1_000_000
    max_header_bytes: int = 1 << 20
    """Bytes of the header; for what is made of it see `tmrl.networking.documents`."""
    max_document_bytes: int = 1 << 22
    """Bytes of samples that travel as they are, without their arrays; likewise."""
    max_depth: int = 32
    """Containers within containers."""


@contextmanager
def refusals() -> Generator[None]:
    """Turns whatever malformed bytes cause into a `ParcelError`."""
    try:
        yield
    except ParcelError:
        raise
    except _MALFORMED as error:
        raise ParcelError(f"the parcel is malformed: {type(error).__name__}: {error}") from error


def expect(kind: type[Value], name: str, value: Any) -> Value:
    """The value, if it is of exactly this type.

    Raises:
        ParcelError: It is not.
    """
    if type(value) is not kind:
        raise ParcelError(f"{name} must be a {kind.__name__}, got a {type(value).__name__}")
    return value


def number(name: str, value: Any, least: int = 0, most: int = MAX_NUMBER - 1) -> int:
    """The value, if it is an integer within bounds.

    Raises:
        ParcelError: It is not.
    """
    if not least <= expect(int, name, value) <= most:
        raise ParcelError(f"{name} must be from {least:,} to {most:,}, got {value:,}")
    return value


class Body:
    """Bytes that are read from front to back.

    Args:
        data: The bytes; what is read are views of them.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._place = 0

    def take(self, n_bytes: int, name: str) -> memoryview:
        """The next bytes.

        Raises:
            ParcelError: There are not so many.
        """
        left = len(self._data) - self._place
        if not 0 <= n_bytes <= left:
            raise ParcelError(f"{name} must be {n_bytes:,} bytes, but the parcel has {left:,} more")
        self._place += n_bytes
        return self._data[self._place - n_bytes : self._place]

    def rest(self) -> memoryview:
        """All bytes that are left."""
        return self.take(len(self._data) - self._place, "the rest")

    def finish(self) -> None:
        """Checks that all was read.

        Raises:
            ParcelError: There is more.
        """
        left = len(self._data) - self._place
        if left:
            raise ParcelError(f"the parcel has {left:,} bytes that belong to nothing")
