"""msgpack documents, without extensions; msgpack is loaded only where one is read or written."""

from typing import Any, NoReturn, cast

from tmrl.errors import ParcelError


def packed(document: Any) -> bytes:
    """A document as bytes."""
    import msgpack

    return cast("bytes", msgpack.packb(document))


def unpacked(data: memoryview) -> Any:
    """The document that was packed; nothing but containers, numbers, text, bytes and None.

    Raises:
        ParcelError: It holds an extension of msgpack.
        ValueError: It is no document.
    """
    import msgpack

    return msgpack.unpackb(data, strict_map_key=False, ext_hook=_no_extension)


def _no_extension(code: int, _: bytes) -> NoReturn:
    raise ParcelError(f"a parcel holds no msgpack extensions, got one of code {code}")
