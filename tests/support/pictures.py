"""Small pictures, drawn when a test needs them; each seed gives other bytes."""

from __future__ import annotations

import io
import random
from typing import Any

from PIL import Image


def drawn(width: int = 16, height: int = 12, *, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture of noise."""
    raw = random.Random(f"{seed}{mode}").randbytes(width * height * len(Image.new(mode, (1, 1)).getbands()))
    return Image.frombytes(mode, (width, height), raw)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0, width: int = 16, height: int = 12) -> bytes:
    """A small JPEG."""
    return encoded(drawn(width, height, seed=seed), "JPEG", quality=90)


def png(seed: int = 0, width: int = 16, height: int = 12) -> bytes:
    """A small PNG."""
    return encoded(drawn(width, height, seed=seed), "PNG")
