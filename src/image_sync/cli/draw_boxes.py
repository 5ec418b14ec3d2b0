"""Pictures with the objects drawn in that a model found."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from image_sync.errors import ImageSyncError, UsageError
from image_sync.log import show_path, show_text
from image_sync.platforms.base import Prediction

_COLOURS = ("#e11d48", "#2563eb", "#16a34a", "#d97706", "#9333ea", "#0891b2", "#be185d", "#4d7c0f")
_SMALLEST = 10


def draw(content: bytes, found: Sequence[Prediction]) -> Image.Image:
    """The picture with a box, a label and a confidence for each object; a label's colour is the same everywhere.

    Pixels are counted as they are stored, whichever way up a camera says that they belong.

    Raises:
        UsageError: it is no picture that can be opened.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"the picture cannot be opened to be drawn in: {error}") from error
    pen = ImageDraw.Draw(picture)
    thick = max(1, round(min(picture.size) / 200))
    font = ImageFont.load_default(max(_SMALLEST, round(min(picture.size) / 30)))
    for one in sorted(found, key=lambda one: one.confidence):  # the surest last, on top
        if one.box is None:
            continue
        colour = _COLOURS[zlib.crc32(one.category.encode("utf-8", "surrogatepass")) % len(_COLOURS)]
        corners = (one.box.left, one.box.top, one.box.right - 1, one.box.bottom - 1)
        if corners[0] > corners[2] or corners[1] > corners[3]:
            corners = (one.box.left, one.box.top, one.box.left, one.box.top)
        pen.rectangle(corners, outline=colour, width=thick)
        if one.box.polygon:
            pen.line([*one.box.polygon, one.box.polygon[0]], fill=colour, width=thick)
        _write(pen, picture.size, corners, f"{show_text(one.category)} {one.confidence:.2f}", colour, font)
    return picture


def _write(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corners: tuple[float, float, float, float],
    text: str,
    colour: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """The text on a strip above the box; inside it where there is no room above."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(corners[0], 0), max(size[0] - width, 0))
    y = corners[1] - height if corners[1] >= height else corners[1]
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + 2 - left, y + 2 - top), text, fill="white", font=font)


def save(picture: Image.Image, source: Path, folder: Path, taken: set[Path]) -> Path:
    """Write it as ``<name>-boxes.png`` and return where; a name that this call has used gets a number.

    Raises:
        ImageSyncError: it cannot be written.
    """
    stem, number = f"{source.stem}-boxes", 1
    target = folder / f"{stem}.png"
    while target in taken:
        number += 1
        target = folder / f"{stem}-{number}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(target, "PNG")
    except OSError as error:
        raise ImageSyncError(
            f"{show_path(str(target))} cannot be written: {error.strerror or error}", hint="Choose another --annotate."
        ) from error
    taken.add(target)
    return target
