"""Film strips show the pixels that are in the rows."""

import struct
import zlib

import numpy as np
import pytest

from recorded import Listed, episode_of, schema_of
from tmrl.inspection.film import MAX_SIDE, image_leaves, picture, png, shrunk, strips


def decoded(file: bytes) -> np.ndarray:
    """The pixels of a PNG file as `png` writes them."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    place, bodies = 8, {}
    while place < len(file):
        (length,) = struct.unpack(">I", file[place : place + 4])
        kind, body = file[place + 4 : place + 8], file[place + 8 : place + 8 + length]
        assert struct.unpack(">I", file[place + 8 + length :][:4]) == (zlib.crc32(kind + body),)
        bodies[kind] = body
        place += length + 12
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", bodies[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    lines = np.frombuffer(zlib.decompress(bodies[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape((height, width, 3) if colour == 2 else (height, width))


@pytest.mark.parametrize("shape", [(8, 9), (64, 48, 3)])
def test_png_holds_the_pixels(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(decoded(png(image)), image)


IMAGE = np.random.default_rng(1).integers(0, 255, (4, 20, 30, 3), np.uint8)
FIRST = np.moveaxis(IMAGE, -1, 1)
OPAQUE = np.concatenate([IMAGE[3], np.full((20, 30, 1), 255, np.uint8)], axis=-1)


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (IMAGE[3, ..., 0], IMAGE[3, ..., 0]),
        (IMAGE[3], IMAGE[3]),
        (FIRST[3], IMAGE[3]),
        (IMAGE[3, ..., :1], IMAGE[3, ..., 0]),
        (FIRST[3, :1], IMAGE[3, ..., 0]),
        (OPAQUE, IMAGE[3]),
        (np.moveaxis(OPAQUE, -1, 0), IMAGE[3]),
        (IMAGE[..., 0], IMAGE[3, ..., 0]),
        (np.moveaxis(IMAGE[..., 0], 0, -1), IMAGE[3, ..., 0]),
        (IMAGE, IMAGE[3]),
        (FIRST, IMAGE[3]),
    ],
    ids=["HW", "HWC", "CHW", "HW1", "1HW", "HW4", "4HW", "kHW", "HWk", "kHWC", "kCHW"],
)
def test_every_layout_is_shown(image: np.ndarray, shown: np.ndarray) -> None:
    assert image_leaves(schema_of({"eye": image}))
    np.testing.assert_array_equal(picture(image), shown)


@pytest.mark.parametrize(
    "leaf",
    [
        np.zeros((84, 84)),
        np.zeros((7, 84), np.uint8),
        np.zeros((84, 84, 0), np.uint8),
        np.zeros(99, np.uint8),
    ],
)
def test_what_is_no_image_is_left_out(leaf: np.ndarray) -> None:
    schema = schema_of({"eye": leaf})
    assert image_leaves(schema) == []
    assert strips(Listed(schema, [episode_of(schema, 3, np.random.default_rng(0))])) == []


def test_a_large_image_is_made_smaller_by_means_of_squares() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2 * MAX_SIDE + 1, 99, 3), np.uint8)
    small = shrunk(image)
    assert small.shape == (85, 33, 3)
    assert small[2, 1].tolist() == image[6:9, 3:6].mean(axis=(0, 1)).round().tolist()
    np.testing.assert_array_equal(shrunk(image[:60]), image[:60])


def test_strips_are_of_the_first_the_middle_and_the_last_episode() -> None:
    schema = schema_of({"eye": np.zeros((16, 16), np.uint8)})
    rng = np.random.default_rng(0)
    dataset = Listed(schema, [episode_of(schema, n, rng) for n in (30, 5, 3, 4, 1)])
    found = strips(dataset)
    assert [strip.episode for strip in found] == [0, 2, 4]
    assert [strip.steps for strip in found] == [(0, 4, 8, 12, 17, 21, 25, 29), (0, 1, 2), (0,)]
    for strip in found:
        for step, frame in zip(strip.steps, strip.frames, strict=True):
            np.testing.assert_array_equal(decoded(frame), dataset.list[strip.episode].rows["obs/eye"][step])
    assert strips(Listed(schema, [])) == []
