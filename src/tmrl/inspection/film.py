"""Film strips: a few frames of a few episodes, for each image in the observation, as PNG within the page."""

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tmrl.datasets.dataset import Dataset, Episode
from tmrl.schema import Leaf, Schema

N_FRAMES = 8
MAX_SIDE = 128
"""Pixels; larger frames are made smaller by a whole factor."""
MAX_IMAGES = 3
"""Leaves that are shown."""
MIN_SIDE = 8
"""An array with a side below this is no image."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Frames of one episode of one leaf."""

    leaf: str
    episode: int
    length: int
    """Transitions of the episode."""
    steps: tuple[int, ...]
    """Which sample of the episode each frame is; 0 is the reset."""
    frames: tuple[bytes, ...]
    """As PNG."""


def strips(dataset: Dataset) -> list[Strip]:
    """Film strips of the first, the middle and the last episode.

    Raises:
        DatasetError: The files are damaged.
    """
    leaves = image_leaves(dataset.schema)[:MAX_IMAGES]
    if not leaves or not len(dataset):
        return []
    episodes = [(index, dataset.episode(index)) for index in sorted({0, len(dataset) // 2, len(dataset) - 1})]
    return [_strip(leaf, index, episode) for leaf in leaves for index, episode in episodes]


def image_leaves(schema: Schema) -> list[Leaf]:
    """Leaves of the observation that can be shown."""
    return [leaf for leaf in schema.obs.leaves if leaf.dtype == np.uint8 and _is_image(leaf.shape)]


def _is_image(shape: tuple[int, ...]) -> bool:
    if len(shape) == 2:
        return min(shape) >= MIN_SIDE
    if len(shape) == 3:
        return min(shape) > 0 and _is_image(shape[1:] if _is_channel_first(shape) else shape[:2])
    return len(shape) == 4 and shape[0] > 0 and _is_image(shape[1:])


def _is_channel_first(shape: tuple[int, ...]) -> bool:
    """Whether channels, or stacked frames, stand first and not last: they are fewer than pixels."""
    return shape[0] <= shape[2]


def _strip(leaf: Leaf, index: int, episode: Episode) -> Strip:
    n = len(episode.rows)
    steps = np.unique(np.linspace(0, n - 1, min(n, N_FRAMES)).round().astype(np.int64))
    images = [picture(episode.rows[leaf.name][step]) for step in steps]
    return Strip(
        leaf.name, index, episode.length, tuple(steps.tolist()), tuple(png(shrunk(image)) for image in images)
    )


def picture(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What to show of an image of any layout: `(H, W)` grey or `(H, W, 3)` colours.

    Of a stack of frames the last. Four channels are colours with an opaque alpha channel, or else a stack.
    """
    if image.ndim == 4:
        return picture(image[-1])
    if image.ndim == 2:
        return image
    if _is_channel_first(image.shape):
        image = np.moveaxis(image, 0, -1)
    n_channels = image.shape[2]
    if n_channels == 3 or (n_channels == 4 and bool((image[..., 3] == 255).all())):
        return image[..., :3]
    return image[..., -1]


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with no side above `MAX_SIDE`, each pixel the mean of a square."""
    factor = -(-max(image.shape[:2]) // MAX_SIDE)
    if factor == 1:
        return image
    height, width = (max(1, side // factor) for side in image.shape[:2])
    fits = image[: height * factor, : width * factor]
    squares = fits.reshape(height, fits.shape[0] // height, width, fits.shape[1] // width, -1)
    return squares.mean(axis=(1, 3)).round().astype(np.uint8).reshape(height, width, *image.shape[2:])


def png(image: NDArray[np.uint8]) -> bytes:
    """An image as a PNG file, `(H, W)` grey or `(H, W, 3)` colours; see RFC 2083."""
    height, width = image.shape[:2]
    lines = np.zeros((height, 1 + image[0].size), np.uint8)  # each begins with its filter: 0, none
    lines[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*part) for part in parts)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def data_uri(file: bytes) -> str:
    """A PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"
