"""Decoding and resampling: exact against torch, and hostile bytes named by file."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ovonic.adapters import images
from ovonic.adapters.filetree import TreeFile
from ovonic.adapters.images import bilinear_levels, decode_bits, decode_grey, grey_levels
from ovonic.models.errors import DataError


def _file(data: bytes) -> TreeFile:
    return TreeFile(PurePosixPath("a/x.png"), "set.zip: 'a/x.png'", len(data), lambda: data)


def _bytes(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _torch_bilinear(pixels: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(pixels.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(
        tensor, size=(28, 28), mode="bilinear", align_corners=False, antialias=False
    )[0, 0]


@given(arrays(np.uint8, (105, 105), elements=st.integers(0, 1)))
@settings(max_examples=25, deadline=None)
def test_bilinear_levels_equal_torch_exactly(bits: np.ndarray) -> None:
    assert torch.equal(torch.from_numpy(bilinear_levels(bits)) / 64.0, _torch_bilinear(bits))


def test_bilinear_levels_by_hand() -> None:
    """Output 0 samples 1.375: 5/8 of pixel 1 and 3/8 of pixel 2; output 1 samples 5.125: 7/8 and 1/8."""
    bits = np.zeros((3, 105, 105), np.uint8)
    bits[0, 1, 1] = bits[1, 2, 6] = 1
    bits[2] = 1
    levels = bilinear_levels(bits)
    assert levels[0, 0, 0] == 5 * 5
    assert levels[1, 0, 1] == 3 * 1
    assert levels[:2].sum() == 25 + 3
    assert (levels[2] == 64).all()


def test_decoded_bits_are_the_drawing(drawing_png: Callable[..., bytes]) -> None:
    expected = (np.random.default_rng(3).random((105, 105)) > 0.1).astype(np.uint8)
    for mode in ("1", "L", "RGB", "P"):
        assert np.array_equal(decode_bits(_file(drawing_png(3, mode=mode))), expected)


def test_every_truncation_is_refused(drawing_png: Callable[..., bytes]) -> None:
    whole = drawing_png(0)
    for cut in [*range(0, len(whole) - 1, 97), len(whole) - 12, len(whole) - 4, len(whole) - 1]:
        for decode in (decode_bits, decode_grey):
            with pytest.raises(DataError, match=r"set\.zip: 'a/x\.png'"):
                decode(_file(whole[:cut]))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_flipped_bytes_are_refused_or_harmless(drawing_png: Callable[..., bytes], data: st.DataObject) -> None:
    hostile = bytearray(drawing_png(1))
    for place in data.draw(st.lists(st.integers(0, len(hostile) - 1), min_size=1, max_size=4)):
        hostile[place] = data.draw(st.integers(0, 255))
    for decode in (decode_bits, decode_grey):
        with contextlib.suppress(DataError):
            decode(_file(bytes(hostile)))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "is not a PNG"),
        (b"not an image", "is not a PNG"),
        (_bytes(Image.new("L", (105, 105), 255), "JPEG"), "is not a PNG"),
        (_bytes(Image.new("1", (104, 105))), "104x105 pixels"),
        (_bytes(Image.new("L", (105, 105), 127)), "grey levels"),
        (_bytes(Image.new("RGBA", (105, 105), (0, 0, 0, 0))), "transparency"),
        (_png_header(50_000, 50_000), "pixels"),
        (_png_header(12_000, 10_000), "pixels"),
        (_png_header(105, 105), "does not decode"),
    ],
)
def test_what_is_no_omniglot_drawing_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        decode_bits(_file(data))


def test_decompression_bombs_are_refused_before_they_inflate() -> None:
    assert images.MAX_PIXELS < 8000 * 8000
    for width, height in ((8000, 8000), (1, 2**31 - 1), (20_000, 20_000)):
        with pytest.raises(DataError, match="pixels"):
            decode_grey(_file(_png_header(width, height)))


def test_user_pictures_of_omniglot_size_follow_the_same_rule(drawing_png: Callable[..., bytes]) -> None:
    bits = decode_bits(_file(drawing_png(5)))
    levels = grey_levels(decode_grey(_file(drawing_png(5))))
    assert np.abs(levels / 255.0 - bilinear_levels(bits) / 64.0).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("side", [17, 28, 64, 104])
def test_smaller_pictures_are_bilinear_alone(side: int) -> None:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side), dtype=np.uint8)
    expected = _torch_bilinear(pixels)
    assert np.abs(grey_levels(Image.fromarray(pixels)) - expected.numpy()).max() <= 0.5 + 1e-3


def test_strokes_of_a_large_picture_survive() -> None:
    """Nine lines 30 of 1050 pixels wide: samples 37.5 apart miss some, after averaging to 105 none."""
    pixels = np.full((1050, 1050), 255, np.uint8)
    for column in range(95, 900, 95):
        pixels[:, column : column + 30] = 0

    def lines(grey: np.ndarray) -> int:
        dark = grey[0] < 255
        return int(np.sum(dark[1:] & ~dark[:-1]))

    assert lines(_torch_bilinear(pixels).numpy()) < 9
    assert lines(grey_levels(Image.fromarray(pixels))) == 9


def test_pictures_that_are_not_square_are_padded_with_their_paper() -> None:
    pixels = np.full((60, 30), 200, np.uint8)
    pixels[20:40, 10:20] = 10
    levels = grey_levels(Image.fromarray(pixels))
    assert (levels[:, :6] == 200).all()
    assert (levels[:, -6:] == 200).all()
    assert levels[14, 14] == 10


def test_inversion_is_asked_for_and_never_guessed() -> None:
    pixels = np.zeros((105, 105), np.uint8)
    pixels[40:60, 40:60] = 255
    image = Image.fromarray(pixels)
    assert grey_levels(image)[0, 0] == 0
    assert np.array_equal(grey_levels(image, invert=True), 255 - grey_levels(image))


def test_colour_depth_and_transparency_become_grey() -> None:
    assert decode_grey(_file(_bytes(Image.new("RGB", (5, 5), (255, 0, 0))))).getpixel((0, 0)) == 76
    assert decode_grey(_file(_bytes(Image.new("RGBA", (5, 5), (0, 0, 0, 0))))).getpixel((0, 0)) == 255
    deep = Image.fromarray(np.full((5, 5), 40_000, np.uint16))
    assert decode_grey(_file(_bytes(deep))).getpixel((0, 0)) == 40_000 >> 8
    assert decode_grey(_file(_bytes(Image.new("L", (5, 9), 7), "JPEG"))).size == (5, 9)


def test_a_photo_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_grey(_file(_bytes(Image.new("L", (40, 20)), "JPEG", exif=exif))).size == (20, 40)


def test_formats_that_are_not_read_are_refused() -> None:
    with pytest.raises(DataError, match="is not a PNG or JPEG or BMP or WEBP"):
        decode_grey(_file(_bytes(Image.new("L", (5, 5)), "GIF")))
