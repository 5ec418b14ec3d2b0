"""A JPEG or PNG as red, green and blue, whatever is wrong with it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

MOST_PIXELS = 50_000_000
"""Larger pictures are refused: a PNG of 10 KB can hold 80 million pixels."""

_FORMATS = ("JPEG", "PNG")
# What Pillow is known to raise for damaged files, and its warnings where those are errors.
_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AttributeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,
)


def decoded(picture: bytes, side: int, *, upright: bool) -> tuple[Image.Image, tuple[int, int]]:
    """The picture as 8-bit red, green and blue, and its own width and height.

    Args:
        picture: the whole file.
        side: width and height from which on it may be decoded at a fraction of its size, which is quicker.
        upright: turn it as its EXIF data says; else its pixels stay where the file has them.

    Raises ValueError with a clause that says why the bytes are no usable picture.
    """
    try:
        with Image.open(io.BytesIO(picture), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"it has {width}x{height} pixels, more than {MOST_PIXELS}")
            image.draft(None, (side, side))
            image.load()
            return _plain(_upright(image) if upright else image), (width, height)
    except _FAULTS as error:
        raise ValueError(f"it cannot be decoded as JPEG or PNG ({error or type(error).__name__})") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _FAULTS:  # damaged EXIF says nothing about the rotation, and nothing against the pixels
        return image


def _plain(image: Image.Image) -> Image.Image:
    """The picture as 8-bit red, green, blue; what is transparent becomes mid-grey."""
    if image.mode.startswith("I"):  # 16 bits of grey: Pillow's own conversion would clip instead of scale
        levels = np.asarray(image, dtype=np.float32) / 257
        return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (128, 128, 128, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")
