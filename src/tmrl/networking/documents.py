"""msgpack documents, without extensions; msgpack is loaded only where one is read or written."""

import sys
from typing import Any, NoReturn, cast

from tmrl.errors import ParcelError

MAX_MADE_BYTES = 64 << 20
"""Of the containers of one document in memory. They may be more than a hundred times what they were as bytes;
what they hold, less than thirty times."""
MAX_ITEMS = 1 << 18
"""In a container: its memory is taken before it is known whether they are there."""
SURE_BYTES = 1 << 18
"""No document of so many bytes is too much to read."""


def packed(document: Any) -> bytes:
    """A document as bytes, which `unpacked` takes.

    Raises:
        ParcelError: It has more, or larger, containers than that would read.
    """
    import msgpack

    data = cast("bytes", msgpack.packb(document))
    if len(data) > SURE_BYTES:
        try:
            unpacked(memoryview(data))
        except ParcelError:
            raise
        except ValueError as error:
            raise ParcelError(f"a list or a dict must have at most {MAX_ITEMS:,} items: {error}") from error
    return data


def unpacked(data: memoryview) -> Any:
    """The document that was packed; nothing but containers, numbers, text, bytes and None.

    Raises:
        ParcelError: It holds an extension of msgpack, or more containers than fit `MAX_MADE_BYTES`.
        ValueError: It is no document.
    """
    import msgpack

    spend = _Budget().spend
    return msgpack.unpackb(
        data,
        strict_map_key=False,
        ext_hook=_no_extension,
        list_hook=spend,
        object_hook=spend,
        max_array_len=MAX_ITEMS,
        max_map_len=MAX_ITEMS,
    )


class _Budget:
    """What the containers of one document may still take."""

    def __init__(self) -> None:
        self._left = MAX_MADE_BYTES

    def spend(self, made: Any) -> Any:
        self._left -= sys.getsizeof(made)
        if self._left < 0:
            raise ParcelError(f"the containers of a document must fit {MAX_MADE_BYTES:,} bytes of memory")
        return made


class Beginning:
    """The beginning of a document, of which no more is read than is asked for: numbers, and short texts.

    Args:
        data: Of the document, as much as is needed; copied.
        max_text_bytes: Most bytes of a text.
    """

    def __init__(self, data: memoryview, max_text_bytes: int) -> None:
        import msgpack

        self._unpacker = msgpack.Unpacker(
            read_size=1,
            max_buffer_size=len(data),
            max_str_len=max_text_bytes,
            max_bin_len=0,
            max_array_len=0,
            max_map_len=0,
            max_ext_len=0,
        )
        self._unpacker.feed(data)
        self._errors = msgpack.UnpackException

    def length(self) -> int:
        """The number of items of a list that begins here.

        Raises:
            ValueError: None does.
        """
        return self._next(self._unpacker.read_array_header)

    def value(self) -> Any:
        """What stands here.

        Raises:
            ValueError: It is a container with anything in it, too long, or not there.
        """
        return self._next(self._unpacker.unpack)

    def _next(self, read: Any) -> Any:
        try:
            return read()
        except self._errors as error:
            raise ValueError(f"it ends too early: {error}") from error


def _no_extension(code: int, _: bytes) -> NoReturn:
    raise ParcelError(f"a parcel holds no msgpack extensions, got one of code {code}")
