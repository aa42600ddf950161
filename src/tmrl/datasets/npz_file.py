"""`.npz` files: named plain arrays in a zip, read within bounds and written column by column.

A zip can promise more than any memory holds, and the header of an array is Python source. So nothing is
believed: the header must be the one line that NumPy writes, the shape must account for the size of the entry
to the byte, and all entries together must be no larger than a multiple of the file.
"""

import math
import re
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from tmrl.errors import DatasetError

MAX_RATIO = 100
"""Most bytes of arrays for each byte of the file, beyond `FREE_BYTES`."""
FREE_BYTES = 1 << 28

_UNREADABLE = (
    *(BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError),
    *(ValueError, TypeError, ArithmeticError),
)
_SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([<>|=]?[biufcU?]\d*)',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(\s*((?:\d+\s*,\s*)*(?:\d+\s*)?)\),?\s*\}\s*"
)
_MAX_HEADER = 10_000


class NpzFile:
    """The arrays in a file, each read when it is asked for.

    Args:
        file: The file.

    Raises:
        DatasetError: It is no zip, or would unpack to an absurd size.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._told():
            self._zip = ZipFile(file)
        self._entries = {entry.filename: entry for entry in self._zip.infolist()}
        total, size = sum(entry.file_size for entry in self._zip.infolist()), file.stat().st_size
        if total > max(FREE_BYTES, MAX_RATIO * size):
            self.close()
            raise DatasetError(
                f"{file} must unpack to at most {MAX_RATIO} times its size, but its {size:,} bytes stand for "
                f"{total:,}; write it with numpy.savez, without compression, if that is meant"
            )

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return [name.removesuffix(_SUFFIX) for name in self._entries if name.endswith(_SUFFIX)]

    def read(self, name: str) -> NDArray[Any]:
        """Reads one array, read-only, in native byte order.

        Raises:
            DatasetError: It is damaged, or no plain array.
        """
        with self._told(name):
            entry = self._entries[name + _SUFFIX]
            with self._zip.open(entry) as stream:
                return _read(stream, entry)

    def close(self) -> None:
        """Closes the file."""
        self._zip.close()

    @contextmanager
    def _told(self, name: str = "") -> Generator[None]:
        try:
            yield
        except _UNREADABLE as error:
            what = f"the array {name!r} of {self.file}" if name else str(self.file)
            raise DatasetError(f"{what} cannot be read: {error}; write it anew with numpy.savez") from error


def _read(stream: IO[bytes], entry: ZipInfo) -> NDArray[Any]:
    start = stream.read(10)
    if start[:8] == _MAGIC + b"\x02\x00":  # its header has a length of four bytes
        start += stream.read(2)
    elif start[:8] != _MAGIC + b"\x01\x00":
        raise ValueError("it must be a plain array, in version 1 or 2 of the format")
    length = int.from_bytes(start[8:], "little")
    header = stream.read(min(length, _MAX_HEADER + 1)).decode("latin1")
    found = _HEADER.fullmatch(header)
    if found is None or length > _MAX_HEADER:
        raise ValueError(
            f"it must be an array of numbers or text, but its header says {header.strip()[:200]!r}"
        )
    dtype = np.dtype(found[1])
    shape = tuple(int(length) for length in found[3].replace(",", " ").split())
    n_bytes = dtype.itemsize * math.prod(shape)
    if n_bytes != entry.file_size - len(start) - length:
        raise ValueError(f"its shape {shape} of {dtype} does not account for its {entry.file_size:,} bytes")
    flat = np.frombuffer(stream.read(n_bytes), dtype) if n_bytes else np.empty(0, dtype)
    if n_bytes and stream.read(1):
        raise ValueError("it goes on after its end")
    array = flat.reshape(shape, order="F" if found[2] == "True" else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


class NpzWriter:
    """Writes arrays to a new `.npz` file, each in one go or part by part.

    Args:
        stream: An empty file, open for writing.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._zip = ZipFile(stream, "w")

    @contextmanager
    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Generator[IO[bytes]]:
        """Opens an array, whose bytes are then to be written in C order."""
        with self._zip.open(ZipInfo(name + _SUFFIX), "w", force_zip64=True) as stream:
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            yield stream

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Writes a whole array."""
        with self.array(name, array.shape, array.dtype) as stream:
            stream.write(array.tobytes())

    def close(self) -> None:
        """Ends the file."""
        self._zip.close()
