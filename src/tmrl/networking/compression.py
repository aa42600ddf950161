"""Lossless compression with zstandard, which is loaded only where something is compressed."""

from typing import Any

from tmrl.errors import ParcelError


def compressed(data: Any, level: int) -> bytes:
    """Compresses anything that has a buffer."""
    import zstandard

    return zstandard.ZstdCompressor(level=level).compress(data)


def decompressed(data: memoryview, n_bytes: int, name: str) -> bytes:
    """Decompresses what must become so many bytes; no more than these are ever allocated.

    Raises:
        ParcelError: It becomes something else; the message calls it by `name`.
    """
    import zstandard

    try:
        found = zstandard.frame_content_size(data)
        if found != n_bytes:
            raise ParcelError(f"{name} must decompress to {n_bytes:,} bytes, but says {found:,}")
        values = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ParcelError(f"{name} cannot be decompressed: {error}") from error
    if len(values) != n_bytes:
        raise ParcelError(f"{name} must decompress to {n_bytes:,} bytes, got {len(values):,}")
    return values
