"""Pictures of characters through PIL: decoding that survives hostile bytes, and the resampling to 28x28.

The rule is that of the code published with Ortner et al. (2025): bilinear, half-pixel centres, no antialias.
From 105 pixels, output pixel i samples the coordinate 1.375 + 3.75 i: the weights of both axes are eighths,
and a bit image gives exactly k/64, k in 0..64.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ovonic.adapters.filetree import TreeFile
from ovonic.models.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "OMNIGLOT_SIDE", "bilinear_levels", "decode_bits", "decode_grey", "grey_levels"]

OMNIGLOT_SIDE = 105
"""Side of an Omniglot drawing, pixels."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"}
)
"""What claims to be a picture; from ".gif" on they are refused rather than overlooked."""

MAX_PIXELS = 50_000_000

_PNG_END = b"IEND\xaeB`\x82"
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_SAMPLED = 1.375 + 3.75 * np.arange(28)
_LOW = np.floor(_SAMPLED).astype(np.int64)
_HIGH_EIGHTHS = (8 * (_SAMPLED - _LOW)).astype(np.uint8)
_LOW_EIGHTHS = 8 - _HIGH_EIGHTHS


def decode_bits(file: TreeFile) -> np.ndarray:
    """Decode an Omniglot drawing: PNG, 105x105, black strokes on white.

    Returns: [105, 105] uint8, 0 on strokes and 1 on paper.
    Raises: DataError: another format or size, grey levels, or damaged (all checksums are verified).
    """
    with _blaming(file, ("PNG",)):
        image = _load(file, ("PNG",))
        if image.size != (OMNIGLOT_SIDE, OMNIGLOT_SIDE):
            raise DataError(
                f"{file.origin}: {image.width}x{image.height} pixels, Omniglot drawings are "
                f"{OMNIGLOT_SIDE}x{OMNIGLOT_SIDE}; use the original files"
            )
        grey = np.asarray(image.convert("L"))
        if image.has_transparency_data or np.any((grey != 0) & (grey != 255)):
            raise DataError(
                f"{file.origin}: has grey levels or transparency, Omniglot drawings are black on white; "
                "use the original files"
            )
    return (grey == 255).astype(np.uint8)


def bilinear_levels(bits: np.ndarray) -> np.ndarray:
    """Resample bit images from 105 to 28 pixels, exactly.

    Equal to 64 times torch's ``interpolate(mode="bilinear", align_corners=False, antialias=False)``.

    Args: bits: [..., 105, 105] uint8, 0 or 1.
    Returns: the levels k of k/64, [..., 28, 28] uint8.
    """
    rows = _LOW_EIGHTHS[:, None] * bits[..., _LOW, :] + _HIGH_EIGHTHS[:, None] * bits[..., _LOW + 1, :]
    return _LOW_EIGHTHS * rows[..., _LOW] + _HIGH_EIGHTHS * rows[..., _LOW + 1]


def decode_grey(file: TreeFile) -> Image.Image:
    """Decode a user's picture: PNG, JPEG, BMP or WebP of any size, turned as its EXIF says.

    Colour becomes luma (ITU-R 601), 16 bits become 8, transparency becomes white paper.

    Returns: an 8-bit grey PIL image.
    Raises: DataError: undecodable, truncated, over ``MAX_PIXELS``, or of a depth with no stated white.
    """
    with _blaming(file, _FORMATS):
        image = _load(file, _FORMATS)
        if image.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise DataError(f"{file.origin}: mode {image.mode!r} has no stated white; save it as 8-bit grey")
        ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L")


def grey_levels(image: Image.Image, *, invert: bool = False) -> np.ndarray:
    """Bring a grey picture to 28x28 by the module's rule, strokes dark on light paper.

    Sampling without antialias steps over thin strokes of large pictures: one whose longer side is over 105
        pixels is
    first area-averaged to 105. One that is not square is padded to a square with the median grey of its
    border. Contrast is left as it is, and light strokes on dark are never guessed.

    Args: image: mode "L", any size; invert: the strokes are light on dark.
    Returns: levels of 1/255, [28, 28] uint8.
    """
    longer = max(image.size)
    if longer > OMNIGLOT_SIDE:
        width, height = (max(1, round(side * OMNIGLOT_SIDE / longer)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    if invert:
        image = ImageOps.invert(image)
    if image.width != image.height:
        grey = np.asarray(image)
        border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
        square = Image.new("L", (max(image.size),) * 2, int(np.median(border)))
        square.paste(image, ((square.width - image.width) // 2, (square.height - image.height) // 2))
        image = square
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))[None, None]
    resized = torch.nn.functional.interpolate(
        pixels, size=(28, 28), mode="bilinear", align_corners=False, antialias=False
    )
    return resized[0, 0].round().to(torch.uint8).numpy()


@contextmanager
def _blaming(file: TreeFile, formats: tuple[str, ...]) -> Iterator[None]:
    """Report whatever a decoder raises on hostile bytes as the file's fault."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{file.origin}: is not a {' or '.join(formats)} image; convert or replace it") from error
    except Exception as error:
        raise DataError(f"{file.origin}: does not decode ({error or type(error).__name__}); replace it") from error


def _load(file: TreeFile, formats: tuple[str, ...]) -> Image.Image:
    data = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        probe = Image.open(io.BytesIO(data), formats=formats)
    if probe.width * probe.height > MAX_PIXELS:
        raise DataError(
            f"{file.origin}: {probe.width}x{probe.height} pixels, the limit is {MAX_PIXELS}; make it smaller"
        )
    probe.verify()
    if probe.format == "PNG" and _PNG_END not in data:
        raise ValueError("the file is cut short")
    image = Image.open(io.BytesIO(data), formats=formats)
    image.load()
    return image
